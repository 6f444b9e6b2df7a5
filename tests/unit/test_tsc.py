"""The time stamp counter's rate."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.linux import tsc
from sampan.vm import hypervisor


@pytest.mark.skipif("constant_tsc" not in Path("/proc/cpuinfo").read_text(), reason="no such counter")
def test_it_is_measured_alike_each_time() -> None:
    found = [tsc.rate() or 0 for _ in range(3)]
    assert min(found) > 500_000
    assert max(found) - min(found) < min(found) / 2000, found


def test_a_guest_is_told_its_rate_or_measures_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def command_line(rate: int | None, accelerator: str) -> str:
        monkeypatch.setattr(tsc, "rate", lambda: rate)
        shape = hypervisor.Shape("k", "i", accelerator=accelerator)
        return hypervisor.arguments(shape, hypervisor.Parts(3, -1, 4, -1, [5]), 6, 7, 8, restored=False)[-1]

    assert "tsc=nowatchdog tsc_early_khz=2000000 lpj=8000000 " in command_line(2_000_000, "tcg")
    assert "tsc" not in command_line(None, "tcg")
    assert "tsc" not in command_line(2_000_000, "kvm")
    assert "mitigations" not in command_line(2_000_000, "kvm")
