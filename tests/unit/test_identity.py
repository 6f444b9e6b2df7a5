"""An engine's id: made once, kept, and not shared with a copy of its data root."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sampan.engine import identity
from sampan.linux.rtnetlink import Link


def test_an_id_is_made_once(tmp_path: Path) -> None:
    first = identity.load(str(tmp_path))
    assert identity.load(str(tmp_path)) == first
    assert first.id.startswith(first.owner.short)
    assert first.group == f"/sampan-{first.owner.short}"


def test_a_copy_is_another_engine(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first = identity.load(str(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    second = identity.load(str(tmp_path / "two"))
    assert second.copied
    assert second.id != first.id
    again = identity.load(str(tmp_path / "two"))
    assert (again.id, again.copied) == (second.id, False)
    assert identity.load(str(tmp_path / "one")) == first


def test_after_another_boot_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = identity.load(str(tmp_path))
    monkeypatch.setattr(identity, "_boot", lambda: "another")
    monkeypatch.setattr(identity, "_place", lambda _: "7:7")
    assert identity.load(str(tmp_path)) == first


@pytest.mark.parametrize("text", ["", "cut", "\u00e9", "0" * 300])
def test_a_damaged_file_is_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "engine-id").write_text(text)
    first = identity.load(str(tmp_path))
    assert identity.load(str(tmp_path)) == first


def test_a_full_disk_gives_the_same_id_for_this_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(identity.durable, "write", full)
    assert identity.load(str(tmp_path)) == identity.load(str(tmp_path))


def test_names_fit_and_tell_engines_apart(tmp_path: Path) -> None:
    owner = identity.load(str(tmp_path)).owner
    (tmp_path / "other").mkdir()
    other = identity.load(str(tmp_path / "other")).owner
    network = owner.network_id()
    assert len(network) == 64
    for name in (owner.veth("f" * 64), owner.default_bridge, f"br-{network[:12]}"):
        assert len(name) <= 15
        assert owner.short in name
    assert owner.has_veth(owner.veth("f" * 64))
    assert not other.has_veth(owner.veth("f" * 64))
    bridge = Link(7, f"br-{network[:12]}", "bridge", 1500, 0, "", True)
    assert owner.has(bridge)
    assert not other.has(bridge)
    named = Link(7, "mine", "bridge", 1500, 0, "", True, owner.alias)
    assert owner.has(named)
    assert not other.has(named)
