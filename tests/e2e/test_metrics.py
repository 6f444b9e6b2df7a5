"""/metrics, read by Prometheus's own parser."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Daemon, end_daemon, eventually, new_daemon


@pytest.fixture(scope="module")
def measured() -> Iterator[tuple[Daemon, int]]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    daemon = new_daemon("container", "--metrics-addr", f"127.0.0.1:{port}")
    yield daemon, port
    end_daemon(daemon)


def read(daemon: Daemon) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = daemon.http.send("GET", "/metrics").read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: dict[Any, float], wanted: str, **labels: str) -> float:
    rows = [each for (name, own), each in found.items() if name == wanted and set(labels.items()) <= own]
    assert len(rows) == 1, (wanted, labels, rows)
    return rows[0]


def test_metrics(measured: tuple[Daemon, int]) -> None:
    daemon, port = measured
    daemon.ok("run", "-d", "--name", "busy", "busybox", "sh", "-c", "while :; do :; done")
    daemon.ok(
        "run", "-d", "--name", "own", "--isolation", "vm", "--network", "none", "-m", "512m", "busybox", "sleep", "60"
    )
    assert daemon.sampan("run", "--rm", "--network", "none", "busybox", "nonesuch").returncode == 127
    first = read(daemon)
    assert value(first, "sampan_containers", state="running", isolation="container") == 1
    assert value(first, "sampan_containers", state="running", isolation="vm") == 1
    assert value(first, "sampan_images") == 1
    assert value(first, "sampan_image_bytes") > 500_000
    assert value(first, "sampan_start_seconds_count", isolation="container") == 1
    assert value(first, "sampan_start_seconds_bucket", isolation="vm", le="+Inf") == 1
    assert (
        0
        < value(first, "sampan_start_seconds_sum", isolation="container")
        < value(first, "sampan_start_seconds_sum", isolation="vm")
    )
    assert value(first, "sampan_start_failures_total", isolation="container") == 1
    assert value(first, "sampan_container_memory_limit_bytes", name="own") == 512 << 20
    assert value(first, "sampan_container_processes", name="busy") == 1
    assert value(first, "sampan_container_network_receive_bytes_total", name="busy", interface="eth0") >= 0
    assert value(first, "sampan_process_memory_bytes", process="keeper") > 1 << 20
    assert value(first, "sampan_process_open_fds", process="sampand") > 3
    # What counts goes on counting.
    before = value(first, "sampan_container_cpu_seconds_total", name="busy")
    eventually(lambda: value(read(daemon), "sampan_container_cpu_seconds_total", name="busy") > before + 0.2)
    # The same on the port, and nothing else there.
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert b"sampan_build_info" in answer.read()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/containers/json")
    daemon.ok("rm", "-f", "busy", "own")
    assert not [key for key in read(daemon) if key[0].startswith("sampan_container_")]


def test_only_loopback(daemon: Daemon) -> None:
    done = daemon.run("sampand", "--metrics-addr", "0.0.0.0:9323")
    assert (done.returncode, b"no loopback address" in done.stderr) == (2, True)
    done = daemon.run("sampand", "--metrics-addr", "nonsense")
    assert (done.returncode, b"is not ADDRESS:PORT" in done.stderr) == (2, True)
