"""What a guest may say to its host: four kinds of messages, each of known fields, types and sizes. Standard library only.

Whoever is in the guest may have replaced the agent, so nothing is taken as meant: a message of another shape is the end
of the conversation, one that nobody waits for is passed over and counted, and no value is used as a name of the host's.
"""

from __future__ import annotations

import binascii

from sampan.record import field, record
from sampan.runtime.errors import KINDS, OTHER
from sampan.vm.errors import VmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.fields import Message

MAX_HEARD = 1 << 20  # bytes of a message from a guest
MAX_ANSWER = 2 * MAX_HEARD  # of one that is passed on over a shim's socket: where it is written anew, it may be longer
MAX_IGNORED = 1000  # messages that nobody waits for, before the guest is not listened to any more
_MAX_TEXT, _MAX_WARNINGS, _MAX_DEPTH = 4096, 64, 8
_MAX_NUMBER = 1 << 53


class BrokenProtocol(VmError):
    """A guest has sent what no agent of ours sends."""


@record
class Reply:
    """The answer to a request. `error` is empty when it was done; `result` is plain JSON, whatever the request gives."""

    seq: int
    error: str = ""
    failure: str = OTHER
    warnings: list[str] = field(default_factory=list)
    result: object = None

    def as_message(self) -> Message:
        """For who has asked over our socket."""
        if self.error:
            return {"error": self.error, "failure": self.failure}
        return {"warnings": self.warnings, "result": self.result}


@record
class Exit:
    """A process that the host has asked for has ended. `status` is one of wait(2)."""

    id: str
    status: int
    oom: bool = False
    result: object = None


@record
class Question:
    """One for the name server."""

    number: int
    data: bytes
    tcp: bool


@record
class Ready:
    """The agent is there. `version`: of the requests that it knows (vm/requests)."""

    version: int = 1


Heard = Reply | Exit | Question | Ready


def parse(message: object) -> Heard:
    """A message from a guest. Raises BrokenProtocol."""
    if not isinstance(message, dict):
        raise BrokenProtocol(f"a message that is {type(message).__name__}")
    event = message.get("event")
    if event is None:
        return _reply(message)
    if event == "exit":
        status = _number(message, "status", 0xFFFF)
        if status & 0x7F == 0x7F:  # stopped or going on, and no end
            raise BrokenProtocol(f"an end with the status {status}")
        return Exit(_text(message, "id", 64), status, bool(message.get("oom")), plain(message.get("result")))
    if event == "dns":
        try:
            data = binascii.a2b_base64(_text(message, "data", 100_000))
        except ValueError:
            raise BrokenProtocol("a question that is not base64") from None
        return Question(_number(message, "number", _MAX_NUMBER), data, message.get("tcp") is True)
    if event == "ready":
        return Ready(_number(message, "version", 1000) if "version" in message else 1)
    raise BrokenProtocol(f"an event {printable(str(event))[:40]!r}")


def _reply(message: Message) -> Reply:
    sequence = _number(message, "seq", _MAX_NUMBER)
    if "error" in message:
        failure = message.get("failure")
        error = one_line(_text(message, "error", MAX_HEARD)[:_MAX_TEXT]) or "the guest does not say why"
        return Reply(sequence, error, failure if failure in KINDS else OTHER)
    warnings = message.get("warnings") or []
    if not isinstance(warnings, list) or not all(isinstance(text, str) for text in warnings):
        raise BrokenProtocol("warnings that are no texts")
    found = [one_line(text[:_MAX_TEXT]) for text in warnings[:_MAX_WARNINGS]]
    return Reply(sequence, warnings=found, result=plain(message.get("result")))


def _number(message: Message, key: str, most: int) -> int:
    value = message.get(key)
    if type(value) is not int or not 0 <= value <= most:
        raise BrokenProtocol(f"{key} {printable(repr(value)[:40])} is no number up to {most}")
    return value


def _text(message: Message, key: str, most: int) -> str:
    value = message.get(key)
    if not isinstance(value, str) or len(value) > most:
        raise BrokenProtocol(f"{key} is no text of at most {most} characters")
    return value


def plain(value: object, depth: int = 0) -> object:
    """A value that is not nested deeply, so that nobody who passes it on runs out of stack. Raises BrokenProtocol."""
    if depth > _MAX_DEPTH:
        raise BrokenProtocol("a value in a value in a value, and so on")
    if isinstance(value, dict):
        for each in value.values():
            plain(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            plain(each, depth + 1)
    elif isinstance(value, int) and not -_MAX_NUMBER <= value <= 1 << 64:
        raise BrokenProtocol("a number of too many digits")
    return value


def printable(text: str) -> str:
    """Without what a terminal would take for a command, and without halves of characters."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def one_line(text: str) -> str:
    """As printable(), for what goes into logs and headers, where the guest's lines would be lines of ours."""
    return " ".join(printable(text).split())
