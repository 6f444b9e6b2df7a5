"""What every message between sampand and its keeper has, and the versions of it.

A message is a JSON object with descriptors beside it (`wire`): "fds" is their number and "names" says which is which, in
order. A request has "op" and "seq"; its answer has the same "seq" and, when it could not be done, "error" and "failure".

Keepers outlive the engines that have started them, so a version is agreed on: sampand asks with "ping", which all
versions have, and from then on writes what that keeper reads.

| version | descriptors | written by | read by |
|---|---|---|---|
| 1 | by position; a request refers to them by number: "@0", "sources": 1, "root_fd": 2 | engines before 2026-11-29, and this one for their keepers | every keeper and every sampand so far |
| 2 | by name; a request refers to them by that: "@network" | engines from then on | engines from then on |
"""

from __future__ import annotations

from sampan.keeper import fields, protocol
from sampan.keeper.fields import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.fields import Message
    from sampan.keeper.protocol import Descriptors

VERSION, OLDEST = 2, 1  # the newest and the oldest that is read and written here
_REFERENCES = (("sources", "sources"), ("root_fd", "root"))  # version 1's members for descriptors, and their names


def agreed(version: int, oldest: int) -> int:
    """The version to write for a keeper that reads those from `oldest` to `version`. Raises Malformed when there is none."""
    found = min(version, VERSION)
    if found < max(oldest, OLDEST):
        raise Malformed(
            f"the keeper reads messages of version {oldest} to {version}, and this engine {OLDEST} to {VERSION}"
        )
    return found


def to_message(request: protocol.Request[object], version: int) -> tuple[Message, list[int]]:
    """A request as a message, without its "seq", and the descriptors that go with it."""
    members: Message = {**vars(request)}
    descriptors: Descriptors = members.pop("descriptors", {})
    if isinstance(request, protocol.Adopt):
        members = request.task.message()
    elif isinstance(request, protocol.Start):
        members["log"] = vars(request.log)
    if isinstance(request, protocol.Start | protocol.Exec) and "entry" in request.request:
        names = [name for name in descriptors if request.op == "start" or name not in protocol.STDIO]
        members["request"] = {**request.request, "descriptors": names}
    if version > 1:
        members["names"] = list(descriptors)
    elif isinstance(request, protocol.Start | protocol.Exec):
        members["request"] = _by_position(members["request"], list(descriptors), request.op)
    return {"op": request.op, "fds": len(descriptors), **members}, list(descriptors.values())


def _by_position(request: Message, names: list[str], op: str) -> Message:
    """A request as version 1 has it."""
    if op == "exec":
        names = [name for name in names if name not in protocol.STDIO]
    elif "entry" not in request:
        request = request | {key: names.index(name) for key, name in _REFERENCES if name in names}
    if "spec" not in request:
        return request
    linux = request["spec"]["linux"]
    entries = [
        {**entry, "path": f"@{names.index(entry['path'][1:])}"} if entry.get("path", "").startswith("@") else entry
        for entry in linux["namespaces"]
    ]
    return request | {"spec": {**request["spec"], "linux": {**linux, "namespaces": entries}}}


def named(message: Message, fds: list[int]) -> Descriptors:
    """The descriptors that came with a message, by name. Raises Malformed."""
    if "names" in message:
        names = fields.texts(message, "names", 32)
    elif "has_stdin" in message:
        names = protocol.read_task(message).names()
    else:
        names = _positions(message, len(fds))
    if len(names) != len(fds) or len(set(names)) != len(names):
        raise Malformed(f"{len(fds)} descriptors came, and they should be: {', '.join(names) or 'none'}"[:500])
    return dict(zip(names, fds, strict=True))


def _positions(message: Message, count: int) -> list[str]:
    """Names for the descriptors of a message of version 1: "0" is what it calls "@0"."""
    if message.get("op") == "prepare":
        return ["network"][:count]
    names = [str(number) for number in range(count)]
    request = message.get("request")
    if type(request) is not dict or "op" not in message:
        return names
    if message["op"] == "exec" and not fields.mapping(request, "process").get("terminal"):
        return [*protocol.STDIO[:count], *names[: -len(protocol.STDIO)]]
    if "entry" not in request:
        for key, name in _REFERENCES:
            if key in request:
                names[fields.number(request, key, count - 1)] = name
    return names
