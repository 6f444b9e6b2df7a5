"""The way out of an ordinary user's network namespace: slirp4netns.

It gives the namespace an interface with an address, a gateway and a name server, and connects from the
host as the user. Published ports come in by another way (hostports).
"""

from __future__ import annotations

import os
import shutil
import subprocess

from sampan.network.errors import NetworkError

NAME_SERVER = "10.0.2.3"
_MTU = 65520


def launch(pid: int, log_path: str, exit_fd: int) -> None:
    """Starts it for the namespace of process `pid`; it ends when the other end of the pipe `exit_fd` is closed.

    Raises NetworkError.
    """
    program = shutil.which("slirp4netns")
    if program is None:
        raise NetworkError("slirp4netns is not installed: apt-get install slirp4netns")
    if not os.access("/dev/net/tun", os.W_OK):
        raise NetworkError("/dev/net/tun can't be opened: modprobe tun; chmod 666 /dev/net/tun, as udev has it")
    ready, far = os.pipe()
    try:
        with open(log_path, "wb") as log:
            arguments = [program, "--configure", f"--mtu={_MTU}", "--disable-host-loopback", f"--ready-fd={far}", f"--exit-fd={exit_fd}", str(pid), "tap0"]  # fmt: skip
            subprocess.Popen(arguments, pass_fds=(far, exit_fd), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                             start_new_session=True)  # fmt: skip
    finally:
        os.close(far)
    try:
        if os.read(ready, 1) != b"1":
            with open(log_path, encoding="utf-8", errors="replace") as log_text:
                raise NetworkError(f"slirp4netns did not start: {log_text.read().strip()[-500:]}")
    finally:
        os.close(ready)
