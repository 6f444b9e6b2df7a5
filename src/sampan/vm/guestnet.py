"""The guest's network: interfaces as the host says, and a name server that asks the host."""

from __future__ import annotations

import binascii
import socket
from collections.abc import Callable

from sampan.linux import netns
from sampan.linux import rtnetlink as rt
from sampan.linux.netlink import Netlink
from sampan.network import interface
from sampan.vm.dnsrelay import framed
from sampan.vm.mux import Mux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.vm.machine_types import Interface

_ADDRESS, _AT_ONCE = ("127.0.0.11", 53), 256
_PREFIX = "52:54:00:5a:00:"  # hypervisor.MAC


def name_slots() -> None:
    """Names the interfaces after their slots, so that theirs are free for the container's."""
    with Netlink() as netlink:
        for link in rt.links(netlink):
            if link.address.startswith(_PREFIX):
                rt.set_link(netlink, link.index, name=f"slot{int(link.address[-2:], 16)}")


def connect(wanted: Interface) -> None:
    """Makes the slot's interface the container's, on a network with these addresses.

    A machine without slots has its interfaces with their own MACs from the start.
    """
    name, mac = wanted["name"], wanted["mac"]
    with Netlink() as netlink:
        found = rt.link(netlink, f"slot{wanted['slot']}") or next(
            (x for x in rt.links(netlink) if x.address == mac), None
        )
        if found is None:
            raise FileNotFoundError(f"the guest has no interface for {name}")
        rt.set_link(netlink, found.index, name=name, mtu=wanted["mtu"], address=mac)
    netns.believe_no_router("all", "default", name)
    interface.configure(name, wanted["addresses"], wanted["gateways"], wanted["ipv6"])


def disconnect(name: str, slot: int, way_out: str, gateways: list[str]) -> None:
    """Takes an interface out of use: its slot is free again, and `way_out` leads out now."""
    with Netlink() as netlink:
        found = rt.link(netlink, name)
        if found is None:
            return
        rt.set_link(netlink, found.index, up=False)
        for index, address in rt.addresses(netlink):
            if index == found.index:
                rt.delete_address(netlink, index, address)
        rt.set_link(netlink, found.index, name=f"slot{slot}")
        left = rt.link(netlink, way_out) if way_out else None
        if left is not None:
            interface.add_gateways(netlink, left.index, gateways)


class Names:
    """Listens where the container's resolv.conf sends it, over UDP and TCP. Questions and answers go over the port."""

    def __init__(self, mux: Mux) -> None:
        self._mux, self._number = mux, 0
        self._asked: dict[int, Callable[[bytes], object]] = {}  # how each answer gets to who asked
        self._connections: dict[int, socket.socket] = {}  # in the order in which they came
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.bind(_ADDRESS)
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(_ADDRESS)
        self._listener.listen(16)
        mux.loop.watch(self._socket.fileno(), lambda _: self._datagram())
        mux.loop.watch(self._listener.fileno(), lambda _: self._accept())

    def _datagram(self) -> None:
        try:
            data, sender = self._socket.recvfrom(65535)
        except OSError:
            return
        self._ask(data, False, lambda answer: self._socket.sendto(answer, sender))

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._connections[sock.fileno()] = sock
        if len(self._connections) > _AT_ONCE:  # the oldest goes: one client can't have all our descriptors
            self._drop(next(iter(self._connections.values())))
        received = bytearray()
        sock.setblocking(False)

        def read(_: int) -> None:
            try:
                data = sock.recv(65535)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._drop(sock)
                return
            received.extend(data)
            for question in framed(received):
                self._ask(question, True, lambda answer: sock.send(len(answer).to_bytes(2, "big") + answer))

        self._mux.loop.watch(sock.fileno(), read)

    def _drop(self, sock: socket.socket) -> None:
        del self._connections[sock.fileno()]
        self._mux.loop.forget(sock.fileno())
        sock.close()

    def _ask(self, question: bytes, tcp: bool, answer: Callable[[bytes], object]) -> None:
        self._number += 1
        self._asked[self._number] = answer
        while len(self._asked) > _AT_ONCE:
            del self._asked[next(iter(self._asked))]
        text = binascii.b2a_base64(question, newline=False).decode()
        self._mux.send({"event": "dns", "number": self._number, "data": text, "tcp": tcp})

    def answer(self, number: int, data: str) -> None:
        """Gives an answer, in base64, to whom it belongs."""
        give = self._asked.pop(number, None)
        if give is not None:
            try:
                give(binascii.a2b_base64(data))
            except OSError:
                pass  # who asked is gone
