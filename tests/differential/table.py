"""Cases as tables of text: what one would type, a line for each request or command.

A case is lines without an empty line between them. `# words` are a remark. `+` before a line: it is only there for the others, its answer is
not compared. `[name]` before a request keeps the Id of its answer as `${name}`. A line is

    GET /containers/json?all=1
    POST /containers/create?name=one {"Image": "busybox"}
    POST /build?t=x |Content-Type: application/x-tar| @tar Dockerfile=FROM busybox\\nRUN true
    $ docker ps -a

`$` is run by a shell in an empty directory that both engines see. Paths without a version get the newest that both know.
"""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent / "cases"
LINE = re.compile(
    r"(?P<setup>\+ )?(?:\[(?P<keep>\w+)\] )?(?P<method>[A-Z]+) (?P<path>\S+)(?P<headers>(?: \|[^|]*\|)*)(?: (?P<body>.*))?$"
)


@dataclass(frozen=True)
class Step:
    """A line: a request, or a command where `method` is `$`."""

    text: str
    setup: bool
    method: str
    path: str  # or the command
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    keep: str = ""


@dataclass
class Case:
    subject: str
    steps: list[Step] = field(default_factory=list)


def subjects() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.txt"))


def read(subject: str) -> list[Case]:
    cases, case = [], Case(subject)
    for line in [*(HERE / f"{subject}.txt").read_text().splitlines(), ""]:
        if line.strip() and not line.startswith("#"):
            case.steps.append(parse(line))
        elif not line.strip() and case.steps:
            cases.append(case)
            case = Case(subject)
    return cases


def parse(line: str) -> Step:
    bare = line.removeprefix("+ ")
    if bare.startswith("$ "):
        return Step(bare, line != bare, "$", bare[2:])
    match = LINE.match(line)
    assert match, line
    pairs = tuple(
        (name, value)
        for name, _, value in (one.partition(": ") for one in re.findall(r"\|([^|]*)\|", match["headers"]))
    )
    return Step(bare, bool(match["setup"]), match["method"], match["path"], pairs, match["body"], match["keep"] or "")


def payload(body: str) -> bytes:
    """What a request sends: JSON as it stands, or an archive of `name=content` (a name with `/` at its end is a directory)."""
    if not body.startswith("@tar"):
        return body.encode()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for item in body.removeprefix("@tar").strip().split(" ; "):
            if item:
                name, _, content = item.partition("=")
                info = tarfile.TarInfo(name.rstrip("/"))
                info.mtime, info.mode = 1_700_000_000, 0o644
                text = content.replace("\\n", "\n").encode()
                if name.endswith("/"):
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text))
    return data.getvalue()
