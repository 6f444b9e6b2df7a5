"""Dockerfiles that ask for more than there is: each is to be refused."""

from __future__ import annotations


def lines(*rows: bytes) -> bytes:
    """A Dockerfile of one stage with these lines."""
    return b"\n".join([b"FROM a", *rows])


HOSTILE_DOCKERFILES = {
    "variables in variables": lines(b"ENV A=" + b"${a:-" * 3000 + b"x" + b"}" * 3000),
    "a variable that doubles": lines(b"ENV A=" + b"x" * 100, *[b"ENV A=$A$A"] * 60),
    "an argument that doubles": lines(b"ARG B=" + b"x" * 100, *[b"ARG B=$B$B"] * 60),
    "arguments before": b"ARG A=" + b"x" * 100 + b"\nARG A=$A$A" * 60 + b"\nFROM a",
    "arguments in one line": b"ARG " + b" ".join([b"A=xxxxxxxx", *[b"A=$A$A"] * 60]) + b"\nFROM a",
    "many large ones": lines(b"ENV A=" + b"x" * 100_000, *[b"LABEL a%d=$A$A$A" % number for number in range(300)]),
    "replacing each letter": lines(b"ENV A=" + b"x" * 200_000, b"ENV B=${A//x/" + b"y" * 200_000 + b"}"),
    "a port of many digits": lines(b"EXPOSE " + b"1" * 5000),
    "an interval of many digits": lines(b"HEALTHCHECK --interval=" + b"9" * 400 + b"h CMD x"),
    "retries of many digits": lines(b"HEALTHCHECK --retries=" + b"9" * 5000 + b" CMD x"),
    "a signal beyond all": lines(b"STOPSIGNAL RTMIN+99"),
    "an owner below zero": lines(b"RUN --mount=type=cache,target=/x,uid=-1 true"),
    "an owner beyond 32 bits": lines(b"RUN --mount=type=cache,target=/x,gid=99999999999 true"),
    "a size that is none": lines(b"RUN --mount=type=tmpfs,target=/x,size=inf true"),
}  # fmt: skip
