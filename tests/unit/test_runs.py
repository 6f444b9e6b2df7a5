"""What the end of a run brings with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sampan.engine.engine import Engine
from sampan.engine.errors import NotFound
from sampan.engine.execs import Exec
from sampan.engine.model import ExecRequest
from sampan.engine.process import Exit
from tests.unit.gate_world import World


def test_execs_that_were_never_started_end_with_their_container(tmp_path: Path) -> None:
    async def play() -> None:
        world = World(Engine(str(tmp_path / "data"), str(tmp_path / "run")))
        mine, other = world.add("ann").container, world.add("bob").container
        execs, runs = world.engine.execs, world.engine.runs
        started = Exec("f" * 64, mine, ExecRequest(cmd=("true",)), code=0)
        execs.add(started)
        waiting = [execs.create(each, ExecRequest(cmd=("true",))) for each in (mine, mine, other)]
        runs.ended(mine, Exit(0, 1))
        for session in waiting[:2]:
            with pytest.raises(NotFound):
                execs.find(session.id)
        assert execs.find(waiting[2].id) is waiting[2]
        assert execs.find(started.id) is started  # can be inspected still

    asyncio.run(play())
