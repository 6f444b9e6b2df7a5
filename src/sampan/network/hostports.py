"""Published ports of an engine without root: sockets of the host's network namespace, handed into ours.

A child that stays outside binds them, as the user, and passes them in. The proxies that serve them connect
to the containers from the client's own address (IP_TRANSPARENT), so that servers see who asks; the answers
to such an address are marked by the firewall and routed to the proxy's socket.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket

from sampan.linux import descriptors, prctl
from sampan.linux import rtnetlink as rt
from sampan.linux.netlink import Netlink
from sampan.network import ports

ANSWER_MARK = 0x5A4D
_TABLE = 23117


class HostPorts:
    """Our end of the connection to that child."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def fork(cls) -> HostPorts:
        """Starts the child. To be called in the host's network namespace and before there is a thread."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            ours.close()
            _serve(theirs)
        theirs.close()
        return cls(ours)

    def bind(self, protocol: str, address: str, port: int) -> socket.socket:
        """As ports.bind(), on the host. Raises OSError."""
        self._sock.sendall(json.dumps([protocol, address, port]).encode())
        data, fds = descriptors.receive(self._sock, 64, 1)
        if not fds:
            number = int(data or b"5")
            raise OSError(number, os.strerror(number))
        return socket.socket(fileno=fds[0])


def _serve(sock: socket.socket) -> None:
    """The child: binds what is asked for until the daemon is gone. Never returns."""
    try:
        prctl.set_name("sampan-ports")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        os.closerange(3, sock.fileno())
        while request := sock.recv(4096):
            try:
                with ports.bind(*json.loads(request)) as bound:
                    rights = array.array("i", [bound.fileno()])
                    sock.sendmsg([b"0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            except OSError as error:
                sock.sendall(str(error.errno or 5).encode())
    finally:
        os._exit(0)


def route_answers() -> None:
    """Marked packets are for us, whatever their destination: a rule and a table for each IP version."""
    with Netlink() as netlink:
        loopback = rt.link(netlink, "lo")
        for family in (socket.AF_INET, socket.AF_INET6):
            rt.add_mark_rule(netlink, family, ANSWER_MARK, _TABLE)
            rt.add_local_default(netlink, family, loopback.index if loopback else 1, _TABLE)
