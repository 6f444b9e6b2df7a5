"""Inputs that nobody means well: examples changed in places, within bounds of time and memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SOAK = bool(os.environ.get("SAMPAN_SOAK"))
_T = TypeVar("_T")
_EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1]
# What confuses readers of text: ends, escapes, what is no Unicode, digits that are no ASCII, numbers of any size.
TOKENS = [
    b"\0", b"\n", b"\r\n", b"\\", b'"', b"'", b"/", b"../", b"//", b" ", b"\t", b"=", b":", b",", b"@", b"#", b"$", b"${", b"}", b"[", b"]",
    b"{", b"-", b"%", b"*", b"**", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", "\u0661".encode(), "\u00b2".encode(), "\u2028".encode(),
    "\ufeff".encode(), b"0", b"-1", b"9" * 25, b"9" * 400, b"1" * 5000, b"1e999", b"NaN", b"Infinity", b"null", b"true", b"0x10", b"1_0",
    b"${a:-" * 400, b"!" * 2000, b"[" * 2000, b"{\"a\":" * 2000, b"a" * 300, b"a" * 70000,
]  # fmt: skip


class TooSlow(BaseException):
    """The reader takes more time than any input is worth."""


def fuzzed(*strategies: st.SearchStrategy[Any], short: int = 60, long: int = 6000) -> Callable[[Any], Any]:
    """A test over these inputs: the same ones each time in CI, others and many more with SAMPAN_SOAK."""

    def decorate(test: Any) -> Any:
        return settings(
            max_examples=int(os.environ.get("SAMPAN_EXAMPLES", 0)) or long if SOAK else short, deadline=None, derandomize=not SOAK, database=None,
            phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if SOAK else [])],
            suppress_health_check=list(HealthCheck),
        )(given(*strategies)(test))  # fmt: skip

    return decorate


@st.composite
def mutated(draw: Any, seeds: Sequence[bytes], tokens: Sequence[bytes] = (), most: int = 6) -> bytes:
    """One of the seeds after up to `most` changes: bytes and tokens put in or over, cut out, repeated, joined with another seed."""
    words = [*tokens, *TOKENS]
    data = bytearray(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 7))
        if kind == 0:
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind in (1, 2):
            data[at:at] = draw(st.sampled_from(words))
        elif kind == 3:
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == 4:
            data[at:at] = data[at : at + draw(st.integers(1, 200))] * draw(st.integers(1, 20))
        elif kind == 5:
            data[at:] = draw(st.sampled_from(list(seeds)))[at:]
        elif kind == 6:
            number = draw(st.sampled_from(_EDGES))
            width = draw(st.sampled_from([1, 2, 4, 8]))
            data[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(
                width, draw(st.sampled_from(["big", "little"]))
            )
        else:
            data = data[:at]
    return bytes(data)


def texts(seeds: Sequence[str], tokens: Sequence[str] = (), most: int = 6) -> st.SearchStrategy[str]:
    """The same for text, which may be no Unicode."""
    return mutated([seed.encode() for seed in seeds], [token.encode() for token in tokens], most).map(
        lambda data: data.decode("utf-8", "surrogateescape")
    )


def values(keys: Sequence[str], leaves: Sequence[Any] = (), size: int = 12) -> st.SearchStrategy[Any]:
    """JSON of any shape, with keys that somebody looks for and values that nobody expects there."""
    leaf = st.sampled_from(
        [
            None,
            True,
            0,
            -1,
            1 << 31,
            1 << 64,
            10**400,
            0.5,
            float("inf"),
            float("nan"),
            "",
            "\0",
            "\ud800",
            "x" * 5000,
            *leaves,
        ]
    )
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*keys, "?"]), inner, max_size=5),
        max_leaves=size,
    )  # fmt: skip


@contextlib.contextmanager
def bounded(seconds: float = 5.0, memory: int = 512 << 20) -> Iterator[None]:
    """Within so much of the processor's time (not the clock's) and so much more memory, or it is a failure."""

    def late(*_: object) -> None:
        raise TooSlow(f"more than {seconds} seconds of the processor")

    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGVTALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, before[1]))
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def refused_or(
    errors: tuple[type[Exception], ...] | type[Exception], call: Callable[..., _T], *arguments: Any
) -> _T | None:
    """What a reader makes of it; None for what it refuses in the way that it says. Everything else fails the test."""
    with bounded():
        try:
            return call(*arguments)
        except errors:
            return None
