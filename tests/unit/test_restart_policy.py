"""Restart policies as Docker has them."""

from __future__ import annotations

import pytest

from sampan.engine import restart_policy
from sampan.engine.errors import BadRequest
from sampan.engine.model import HostConfig, RestartPolicy


def _host(name: str, most: int = 0, auto_remove: bool = False) -> HostConfig:
    return HostConfig(restart_policy=RestartPolicy(name, most), auto_remove=auto_remove)


@pytest.mark.parametrize(
    ("name", "most", "code", "restarts", "again"),
    [
        ("no", 0, 1, 0, False),
        ("", 0, 1, 0, False),
        ("always", 0, 0, 0, True),
        ("unless-stopped", 0, 0, 7, True),
        ("on-failure", 0, 0, 0, False),
        ("on-failure", 0, 3, 100, True),
        ("on-failure", 2, 3, 1, True),
        ("on-failure", 2, 3, 2, False),
    ],
)
def test_what_is_started_again(name: str, most: int, code: int, restarts: int, again: bool) -> None:
    host = _host(name, most)
    assert (restart_policy.delay(host, code, restarts, stopped_by_user=False) is not None) is again
    assert restart_policy.delay(host, code, restarts, stopped_by_user=True) is None


def test_the_pause_doubles_up_to_a_minute() -> None:
    found = [restart_policy.delay(_host("always"), 1, restarts, False) for restarts in (0, 1, 2, 9, 10, 1000)]
    assert found == [0.1, 0.2, 0.4, 51.2, 60.0, 60.0]


@pytest.mark.parametrize(
    ("name", "status", "stopped", "wanted"),
    [
        ("always", "exited", False, True),
        ("always", "exited", True, False),
        ("always", "created", False, False),
        ("unless-stopped", "exited", False, False),
        ("on-failure", "restarting", False, True),
        ("no", "exited", False, False),
    ],
)
def test_what_is_started_with_the_engine(name: str, status: str, stopped: bool, wanted: bool) -> None:
    assert restart_policy.wants_at_boot(_host(name), status, stopped) is wanted


@pytest.mark.parametrize(
    "host", [_host("sometimes"), _host("always", 3), _host("always", auto_remove=True), _host("unless-stopped", 1)]
)
def test_what_can_not_be_is_refused(host: HostConfig) -> None:
    with pytest.raises(BadRequest):
        restart_policy.check(host)
