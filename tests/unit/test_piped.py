"""Places of streams, listeners that do not read, and JSON at the door."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.api import piped
from sampan.api.json import decode
from sampan.engine.errors import BadRequest, Busy
from sampan.engine.events import _QUEUE, Events
from tests.support.effort import tries


class Client:
    """A transport that can be taken away."""

    def __init__(self, places: piped.Places) -> None:
        self._places = places
        self.stream: Any = None
        self.gone = False

    def abort(self) -> None:
        self.gone = True
        self._places.leave(self.stream)


def test_who_reads_keeps_his_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        places = piped.Places("tests", 2)
        clients = [Client(places), Client(places)]
        for client in clients:
            client.stream = await places.take(client)  # type: ignore[arg-type]
        monkeypatch.setattr(piped, "_PATIENCE", 0.1)
        with pytest.raises(Busy, match="2 of tests"):
            await places.take(None)
        assert not any(client.gone for client in clients)
        clients[0].stream.moved -= 2 * piped._STALLED
        await places.take(None)
        assert [client.gone for client in clients] == [True, False]

    asyncio.run(run())


def test_a_listener_that_does_not_keep_up_is_let_go() -> None:
    async def run() -> None:
        events, told = Events(), []
        slow = events.listen(lambda: told.append("slow"))
        for number in range(_QUEUE + 10):
            events.publish("container", "start", str(number), {})
        assert told == ["slow"]
        assert slow.queue.qsize() == _QUEUE
        assert events.listeners == 0
        events.forget(slow)

    asyncio.run(run())


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 70 + "]" * 70, "[" * 10_000, '{"a":' * 70 + "1" + "}" * 70, "NaN", "[Infinity]", "9" * 5000, '"\\u0000"', '{"a\\u0000":1}',
     '{"a":["\\u0000"]}', "", "{'a':1}", '"\x01"', b'"\xff"', b"\xff\xfe"],
)  # fmt: skip
def test_json_that_go_refuses(text: str | bytes) -> None:
    with pytest.raises(BadRequest, match=r"^invalid x: "):
        decode(text, "invalid x")


def test_halves_of_pairs_become_replacements() -> None:
    assert decode('{"\\ud800":"a\\udc00b","ok":"\\ud83d\\ude00"}', "x") == {"\ufffd": "a\ufffdb", "ok": "\U0001f600"}


@settings(max_examples=tries(40, 1000))
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_is_read_can_be_written(value: Any) -> None:
    try:
        found = decode(json.dumps(value), "x")
    except BadRequest:
        return
    json.dumps(found, ensure_ascii=False).encode()
