"""Engines side by side: in one network namespace, in two pid namespaces with one cgroup tree, killed in turn (T04, T05, T108).

CI kills each twice, SAMPAN_SOAK=1 twenty times.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sampan.client.http import APIError, Http, NoEngine
from tests.conftest import eventually
from tests.support.neighbours import Neighbour, neighbours

ROUNDS = 20 if os.environ.get("SAMPAN_SOAK") else 2

# One connection for as long as it lives; says when an answer is late or wrong.
TALKER = """
import socket, sys, time
s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)
s.settimeout(20)
print('ready', flush=True)
count = 0
while True:
    text = b'%08d' % count
    s.sendall(text)
    got = b''
    while len(got) < 8:
        part = s.recv(8 - len(got))
        if not part:
            sys.exit(f'closed after {count}')
        got += part
    if got != text:
        sys.exit(f'{got} for {text}')
    count += 1
    time.sleep(0.02)
"""


def in_net(daemon: Neighbour, *command: str) -> str:
    """What a command says in the network namespace of an engine."""
    return subprocess.run([*daemon.inside, *command], capture_output=True, text=True, check=True).stdout


def links(daemon: Neighbour) -> list[str]:
    return sorted(row["ifname"] for row in json.loads(in_net(daemon, "ip", "-json", "link", "show")))


def furnish(daemon: Neighbour, port: int) -> None:
    """What must go on: a published echo server on the default network, two containers that find each other by name."""
    daemon.ok("run", "-d", "--name", "web", "-p", f"{port}:7", "busybox", "nc", "-ll", "-p", "7", "-e", "cat")
    daemon.ok("network", "create", "front")
    daemon.ok("run", "-d", "--name", "db", "--network", "front", "busybox", "sleep", "3600")
    daemon.ok("run", "-d", "--name", "app", "--network", "front", "busybox", "sleep", "3600")


def check(daemon: Neighbour) -> None:
    for name in ("web", "db", "app"):
        assert "inet " in daemon.ok("exec", name, "ip", "addr", "show", "eth0"), name
    assert "0% packet loss" in daemon.ok("exec", "app", "ping", "-c", "1", "-W", "5", "db")
    assert daemon.ok("run", "--rm", "--network", "front", "busybox", "echo", "more") == "more\n"


@contextlib.contextmanager
def talking(daemon: Neighbour, port: int) -> Iterator[subprocess.Popen[bytes]]:
    talker = subprocess.Popen(
        [*daemon.inside, sys.executable, "-c", TALKER, str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert talker.stdout is not None
    assert talker.stdout.readline() == b"ready\n", talker.communicate()
    try:
        yield talker
        assert talker.poll() is None, talker.communicate()
    finally:
        talker.kill()
        talker.communicate()


@pytest.mark.parametrize("kind", ["namespace", "pids"])
def test_two_engines_killed_in_turn(kind: str) -> None:
    with neighbours(kind) as (first, second):
        assert first.short != second.short
        ports = {first.short: 8081, second.short: 8082}
        for daemon in (first, second):
            furnish(daemon, ports[daemon.short])
        default = [json.loads(d.ok("network", "inspect", "bridge"))[0] for d in (first, second)]
        assert default[0]["IPAM"]["Config"][0]["Subnet"] != default[1]["IPAM"]["Config"][0]["Subnet"]
        names = [n["Options"]["com.docker.network.bridge.name"] for n in default]
        assert names[0] == "sampan0"
        assert names[1] == f"sampan{second.short}"
        with contextlib.ExitStack() as stack:
            for daemon in (first, second):
                stack.enter_context(talking(daemon, ports[daemon.short]))
            for number in range(ROUNDS):
                for daemon in (first, second):
                    if number % 2:
                        daemon.kill_keeper()
                        check(daemon)
                    daemon.kill()
                    daemon.start()
                    check(first)
                    check(second)
        # What one leaves when it has nothing any more is gone, and the other's is all there.
        gone = first.short
        for name in ("web", "db", "app"):
            first.ok("rm", "-f", name)
        first.ok("network", "rm", "front")
        first.stop()
        tables = in_net(second, "nft", "list", "tables").split()
        assert f"sampan-{gone}" not in tables
        assert f"sampan-{second.short}" in tables
        left = [name for name in links(second) if gone in name or name == "sampan0"]
        assert not left
        check(second)
        first.start()


def test_engines_do_not_sweep_each_other() -> None:
    """An interface, a bridge and a control group that carry another id are left alone, whatever they look like."""
    with neighbours("namespace") as (first, second):
        furnish(first, 8081)
        orphan, own = f"br-abcd{second.short}", f"br-abcd{first.short}"
        for name in (orphan, own):
            in_net(first, "ip", "link", "add", name, "type", "bridge")
        in_net(first, "ip", "link", "add", f"sv{second.short}abcde", "type", "veth", "peer", "name", "other0")
        before = [name for name in links(first) if second.short in name]
        first.kill()
        first.start()
        assert [name for name in links(first) if second.short in name] == before
        eventually(lambda: own not in links(first))  # ours, and in no record
        in_net(first, "ip", "link", "add", "gone0", "type", "bridge")
        in_net(first, "ip", "link", "set", "gone0", "alias", "sampan 0123abcd /nowhere")
        doctor = subprocess.run([*first.inside, "sampan", "doctor"], env=first.env, capture_output=True, text=True)
        assert "interface gone0: its engine 0123abcd is gone" in doctor.stdout
        for table in ("inet sampan-0123abcd", "bridge sampan-0123abcd"):
            assert f"nft delete table {table}" in doctor.stdout
        assert orphan not in doctor.stdout
        check(first)
        second.kill()
        second.start()
        assert not [name for name in links(second) if name in (orphan, f"sv{second.short}abcde")]
        check(first)


def test_a_copy_of_a_data_root_leaves_the_original_alone() -> None:
    """It is another engine: what runs, and what is on the host, is not its own."""
    with neighbours("namespace") as (first, second):
        furnish(first, 8081)
        second.stop()
        shutil.rmtree(second.root / "data", ignore_errors=True)
        shutil.copytree(first.root / "data", second.root / "data", symlinks=True, ignore=shutil.ignore_patterns("vm"))
        with talking(first, 8081):
            second.start()
            assert second.short != first.short
            assert second.ok("ps", "-q") == ""
            second.ok("rm", "-f", "web", "db", "app")
            second.ok("network", "rm", "front")
            assert second.ok("run", "--rm", "busybox", "echo", "mine") == "mine\n"
            check(first)


@pytest.mark.parametrize("damage", ['{"cut', '{"id": 7, "more": 1}'])
def test_a_broken_record_is_no_reason_to_sweep(damage: str) -> None:
    with neighbours("namespace") as (first, _):
        furnish(first, 8081)
        first.kill()
        with sqlite3.connect(f"{first.root}/data/sampan.db") as db:
            db.execute("UPDATE records SET body = ? WHERE kind = 'endpoint'", (damage,))
        db.close()
        first.start()
        for name in ("web", "db", "app"):
            assert "inet " in first.ok("exec", name, "ip", "addr", "show", "eth0"), name


def test_an_engine_of_before_is_taken_over() -> None:
    """Its containers keep their interfaces and ports; its table goes with the first of ours."""
    with neighbours("namespace") as (first, _):
        furnish(first, 8081)
        old = first.short
        first.kill()
        with sqlite3.connect(f"{first.root}/data/sampan.db") as db:
            for kind, key, text in db.execute("SELECT kind, key, body FROM records").fetchall():
                body: dict[str, Any] = json.loads(text)
                if kind == "endpoint":
                    in_net(first, "ip", "link", "set", body.pop("link"), "name", f"sv{body['id'][:12]}")
                elif kind == "container":
                    body.pop("group")
                db.execute("UPDATE records SET body = ? WHERE kind = ? AND key = ?", (json.dumps(body), kind, key))
        db.close()
        listing = in_net(first, "nft", "list", "table", "inet", f"sampan-{old}")
        in_net(first, "nft", "delete", "table", "inet", f"sampan-{old}")
        in_net(first, "nft", listing.replace(f"sampan-{old}", "sampan").replace("\tflags \n", ""))
        for name in links(first):
            if name == "sampan0" or name.startswith("br-"):
                in_net(first, "ip", "link", "set", name, "alias", "")
        (first.root / "data/engine-id").unlink()
        with talking(first, 8081):
            first.start()
            check_of_before(first)
        assert first.short != old
        tables = in_net(first, "nft", "list", "tables").splitlines()
        assert tables.count("table inet sampan") == 0
        assert f"table inet sampan-{first.short}" in tables


def check_of_before(daemon: Neighbour) -> None:
    for name in ("web", "db", "app"):
        assert "inet " in daemon.ok("exec", name, "ip", "addr", "show", "eth0"), name
    assert "0% packet loss" in daemon.ok("exec", "app", "ping", "-c", "1", "-W", "5", "db")
    assert daemon.ok("run", "--rm", "busybox", "echo", "more") == "more\n"


def test_networks_after_kills() -> None:
    """Kernel and records agree after every kill in the middle of something, and what was answered stands (T06, T90)."""
    with neighbours("namespace") as (first, _):
        first.ok("network", "create", "base")
        first.ok("run", "-d", "--name", "box", "--network", "base", "busybox", "sleep", "3600")
        chance = random.Random(6)
        for number in range(ROUNDS * 2):
            known: dict[str, bool] = {}  # what was answered: there, or gone
            process = threading.Thread(target=_churn, args=(first.socket, number, known))
            process.start()
            time.sleep(chance.uniform(0.0, 0.15))
            first.kill()
            process.join()
            first.start()
            networks = {row["Name"]: row for row in first.http.call("GET", "/networks")}
            for name, there in known.items():
                assert (name in networks) == there, (name, known)
            bridges = {name for name in links(first) if name.startswith("br-")}
            assert bridges == {f"br-{row['Id'][:12]}" for row in networks.values() if row["Name"] not in _PREDEFINED}
            box = first.http.call("GET", "/containers/box/json")
            inside = json.loads(in_net_of(box["State"]["Pid"], "ip", "-json", "addr", "show"))
            addresses = {a["local"] for row in inside for a in row["addr_info"] if a["family"] == "inet"} - {
                "127.0.0.1"
            }
            assert addresses == {n["IPAddress"] for n in box["NetworkSettings"]["Networks"].values()}
            for name in networks:
                if name.startswith("churn"):
                    with contextlib.suppress(APIError):
                        first.http.call("POST", f"/networks/{name}/disconnect", {"Container": "box", "Force": True})
                    first.ok("network", "rm", name)


_PREDEFINED = ("bridge", "host", "none")


def in_net_of(pid: int, *command: str) -> str:
    return subprocess.run(
        ["nsenter", "-t", str(pid), "-n", *command], capture_output=True, text=True, check=True
    ).stdout


def _churn(socket: str, round_: int, known: dict[str, bool]) -> None:
    http = Http(socket)
    with contextlib.suppress(OSError, NoEngine, APIError):
        for number in range(100):
            name = f"churn{round_}-{number}"
            http.call("POST", "/networks/create", {"Name": name})
            known[name] = True
            http.call("POST", f"/networks/{name}/connect", {"Container": "box"})
            http.call("POST", f"/networks/{name}/disconnect", {"Container": "box"})
            known.pop(name)
            http.call("DELETE", f"/networks/{name}")
            known[name] = False
