"""The differential test's own parts: tables, comparison, and what docs/differences.md says."""

from __future__ import annotations

import json
from typing import Any

from tests.differential import differ, table, verdicts
from tests.differential.sides import Answer


def answer(body: Any, status: int = 200) -> Answer:
    return Answer(status, {"content-type": "application/json"}, json.dumps(body).encode())


def different(theirs: Answer, ours: Answer) -> list[str]:
    return [f"{one.kind} {one.where}" for one in differ.compare(theirs, ours, {}, {})]


def test_every_case_can_be_read_and_they_are_many() -> None:
    steps = [
        step for subject in table.subjects() for case in table.read(subject) for step in case.steps if not step.setup
    ]
    assert len(steps) >= 1_000
    assert {"GET", "POST", "PUT", "DELETE", "HEAD", "$"} <= {step.method for step in steps}


def test_a_line_is_a_request_or_a_command() -> None:
    step = table.parse('+ [e] POST /a?b=c |X-Head: x y| {"Cmd": ["a b"]}')
    assert (step.setup, step.keep, step.method, step.path, step.headers) == (
        True,
        "e",
        "POST",
        "/a?b=c",
        (("X-Head", "x y"),),
    )
    assert step.body == '{"Cmd": ["a b"]}'
    assert table.parse("$ docker ps -a").path == "docker ps -a"


def test_what_differs_is_named_and_what_always_differs_is_not() -> None:
    one, other = "a" * 63 + "1", "b" * 63 + "2"
    assert not different(answer({"Id": one, "Created": 1}), answer({"Id": other, "Created": 2}))
    found = different(answer({"a": 1, "b": [], "c": "x"}), answer({"b": None, "c": "y", "d": 1}))
    assert sorted(found) == ["extra .d", "missing .a", "type .b", "value .c"]
    assert different(answer({}), answer({}, 404)) == ["status 200 404"]
    assert different(answer({"message": "a"}, 400), answer({"message": "b"}, 400)) == ["message .message"]
    command = Answer(0, {}, b"a  b\n", b"", True)
    assert not different(command, Answer(0, {}, b"a     b\n", b"", True))
    assert different(command, Answer(1, {}, b"", b"", True)) == ["exit 0 1"]
    assert different(command, Answer(0, {}, b"a c\n", b"x\n", True)) == ["out ", "err "]


def test_a_difference_without_a_reason_is_wrong() -> None:
    known = [verdicts.Row("harmless", "system: *", "value .A", "x"), verdicts.Row("better", "*", "extra .B*", "y")]
    a, b = differ.Difference("value", ".A", "1", "2"), differ.Difference("extra", ".B.c", "", "2")
    assert verdicts.verdict("system: GET /x", [], known)[0] == "same"
    assert verdicts.verdict("system: GET /x", [a], known)[0] == "harmless"
    assert verdicts.verdict("system: GET /x", [a, b], known)[0] == "better"
    assert verdicts.verdict("other: GET /x", [a, b], known) == ("wrong", [a])


def test_each_row_of_the_page_has_a_reason() -> None:
    for row in verdicts.rows():
        assert row.why, row
