"""The name server's sockets in a container's network namespace: a second daemon takes up the rules of the first."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from sampan.linux import netns, nfrules, nftables
from sampan.network import dns

pytestmark = pytest.mark.root


@pytest.fixture
def namespace() -> Iterator[int]:
    fd = netns.new()
    yield fd
    os.close(fd)


def _open_and_close(namespace: int) -> int:
    """The port of sockets whose daemon is gone."""
    sockets = dns.open_sockets(namespace)
    port = sockets[1].getsockname()[1]
    for each in sockets:
        each.close()
    return int(port)


def _answers(namespace: int) -> bool:
    """Whether what is sent to port 53, by UDP and TCP, arrives at new sockets."""

    def ask() -> tuple[socket.socket, socket.socket]:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.sendto(b"question", (dns.ADDRESS, 53))
        tcp = socket.create_connection((dns.ADDRESS, 53), timeout=5)
        return udp, tcp

    udp, tcp = dns.open_sockets(namespace)
    tcp.setblocking(True)
    tcp.settimeout(5)
    udp.settimeout(5)
    asking = netns.inside(namespace, ask)
    try:
        accepted, _ = tcp.accept()
        accepted.close()
        return udp.recv(100) == b"question"
    finally:
        for each in (*asking, udp, tcp):
            each.close()


def test_the_port_of_an_earlier_daemon_is_taken_again_without_a_transaction(
    namespace: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = _open_and_close(namespace)
    assert netns.inside(namespace, nftables.output_redirection, "sampan_dns") == port

    def no_transaction(*_: object) -> None:
        raise AssertionError("the rules are there")

    with monkeypatch.context() as patch:
        patch.setattr(nftables, "redirect_output", no_transaction)
        assert _open_and_close(namespace) == port
    assert _answers(namespace)


def test_a_port_that_the_container_has_taken_is_left_to_it(namespace: int) -> None:
    port = _open_and_close(namespace)

    def listen() -> socket.socket:
        taken = socket.socket()
        taken.bind(("0.0.0.0", port))
        taken.listen()
        return taken

    with netns.inside(namespace, listen):
        assert _open_and_close(namespace) != port
        assert _answers(namespace)


@pytest.mark.parametrize("rules", ["none", "one", "different"])
def test_rules_that_are_not_as_they_were_made_are_made_again(namespace: int, rules: str) -> None:
    port = _open_and_close(namespace)

    def spoil() -> None:
        batch = nftables.Batch()
        table = batch.replace_table(2, "sampan_dns")
        table.add_base_chain("output", nftables.LOCAL_OUT, nftables.DSTNAT, "nat")
        targets = {"none": (), "one": (port,), "different": (port, port + 1)}[rules]
        for target in targets:
            table.add_rule(
                "output", nfrules.protocol(socket.IPPROTO_TCP), nfrules.redirect_to(IPv4Address(dns.ADDRESS), target)
            )
        nft = nftables.Nftables()
        nft.commit(batch, "spoilt")
        nft.close()

    netns.inside(namespace, spoil)
    assert netns.inside(namespace, nftables.output_redirection, "sampan_dns") == 0
    assert _answers(namespace)
