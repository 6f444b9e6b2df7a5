"""The keeper process: how it is started from a read-only copy of the interpreter, and its entry."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time

from sampan import logline
from sampan.linux import interpreter, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.standby import Estate

_ENTRY = """
import sys
sys.path.insert(0, sys.argv[1])
from sampan.keeper.main import main
main(sys.argv[2])
"""


def launch(socket_path: str) -> int:
    """Starts a keeper that listens on `socket_path`, and waits until it does. Returns its pid."""
    import subprocess

    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    binary = interpreter.read_only()
    try:
        with open(f"{socket_path}.log", "ab") as log:
            os.chmod(log.name, 0o600)
            child = subprocess.Popen(
                [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", _ENTRY, source, socket_path],
                executable=f"/proc/self/fd/{binary}",
                pass_fds=(binary,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            )
    finally:
        os.close(binary)
    for _ in range(1000):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(socket_path)
                return child.pid
            except (FileNotFoundError, ConnectionRefusedError):
                if child.poll() is not None:
                    break
                time.sleep(0.005)
    raise OSError(f"the keeper did not start: see {socket_path}.log")


def main(socket_path: str) -> None:
    """The entry: listens, sets itself up as subreaper, serves."""
    os.closerange(3, 64)
    os.umask(0o077)
    prctl.set_child_subreaper()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from sampan.keeper.standby import Estate

    temporary = f"{socket_path}.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(temporary)
    listener.listen(16)
    os.rename(temporary, socket_path)
    _guard(listener, socket_path, Estate())


def _guard(listener: socket.socket, socket_path: str, estate: Estate) -> None:
    """Two processes at any time, a keeper and above it its standby; whichever dies, the other makes it anew and both are
    here again. Returns in a keeper that has nothing to keep, and then in its standby."""
    from sampan.keeper import standby
    from sampan.keeper.supervisor import Supervisor

    gc.freeze()  # children share what is loaded now
    bell = os.eventfd(0)
    keeper: Supervisor | None = None
    while True:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            child = os.fork()
        except OSError as error:
            logline.write("sampan-keeper", "error", f"no process for the keeper: {error}")
            ours.close()
            theirs.close()
            time.sleep(0.5)
            continue
        if child:
            theirs.close()
            prctl.set_name("sampan-standby")
            if keeper is not None:  # the standby has died: the copy goes on, and this is its standby
                estate, keeper = keeper.leave(), None
            if standby.watch(ours, bell, child, estate):
                return
            time.sleep(0.01)  # a keeper that can't live must not cost a whole processor
            continue
        ours.close()
        prctl.set_name("sampan-keeper")
        prctl.set_child_subreaper()
        if keeper is None:
            keeper = Supervisor(listener, estate)
        else:
            keeper.renew()
        keeper.join(standby.Link(theirs, bell))
        if keeper.run():
            _unlink(socket_path)
            return


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
