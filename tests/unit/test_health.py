"""Health: what a probe's result makes of a container."""

from __future__ import annotations

from sampan.engine import health
from sampan.engine.model import Health, Probe


def _probed(before: Health, *codes: int, retries: int = 0, forgiven: bool = False) -> Health:
    for code in codes:
        before = health.judged(before, Probe(exit_code=code), retries, forgiven)
    return before


def test_three_failures_in_a_row_make_it_unhealthy() -> None:
    assert _probed(health.initial(None, same_run=False), 1, 1).status == "starting"
    found = _probed(health.initial(None, same_run=False), 1, 1, 1)
    assert (found.status, found.failing_streak) == ("unhealthy", 3)
    assert _probed(health.initial(None, same_run=False), 1, 1, 0, 1, 1).status == "healthy"


def test_as_many_as_the_check_says() -> None:
    assert _probed(health.initial(None, same_run=False), 1, retries=1).status == "unhealthy"
    assert _probed(health.initial(None, same_run=False), *[1] * 4, retries=5).status == "starting"


def test_failures_in_the_start_period_count_for_nothing_until_it_was_healthy() -> None:
    found = _probed(health.initial(None, same_run=False), *[1] * 9, forgiven=True)
    assert (found.status, found.failing_streak) == ("starting", 0)
    assert _probed(health.initial(None, same_run=False), 0, 1, 1, 1, forgiven=True).status == "unhealthy"


def test_one_success_makes_it_healthy_again() -> None:
    found = _probed(health.initial(None, same_run=False), 1, 1, 1, 1, 0)
    assert (found.status, found.failing_streak) == ("healthy", 0)


def test_the_log_has_the_last_five() -> None:
    found = _probed(health.initial(None, same_run=False), 1, 2, 3, 4, 5, 6, 7)
    assert [probe.exit_code for probe in found.log] == [3, 4, 5, 6, 7]


def test_what_was_known_of_a_run_stands_until_the_next_probe() -> None:
    ill = _probed(health.initial(None, same_run=False), 1, 1, 1)
    assert health.initial(ill, same_run=True) is ill
    assert health.initial(_probed(health.initial(None, same_run=True), 1), same_run=True).status == "starting"
    assert health.ended(_probed(health.initial(None, same_run=True), 0)).status == "unhealthy"


def test_another_run_is_starting() -> None:
    ill = _probed(health.initial(None, same_run=False), 1, 1, 1)
    found = health.initial(ill, same_run=False)
    assert (found.status, found.failing_streak, found.log) == ("starting", 0, ill.log)
