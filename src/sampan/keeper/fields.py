"""Members of a message, checked: each function gives one of the type and within the bounds that it names, or raises Malformed.

`read` makes a record of a message by the annotations of its fields: each names a check of the table it is given.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Message = dict[str, Any]  # what JSON has as an object
    Check = Callable[[Message, str], object]
    R = TypeVar("R")

MAX_NUMBER = 1 << 53
MAX_LIST = 1 << 16


class Malformed(ValueError):
    """A message lacks a member, or has one of another type or size. The text names it."""


def read(cls: type[R], message: Message, checks: dict[str, Check], **given: object) -> R:
    """A record of this class; fields that are not in the message have their defaults. Raises Malformed."""
    for name, kind in cls.__annotations__.items():
        if name not in given and (name in message or not hasattr(cls, name)):
            given[name] = checks[kind](message, name)
    return cls(**given)


def number(message: Message, key: str, most: int = MAX_NUMBER, least: int = 0) -> int:
    """An integer from `least` to `most`; true and false are none."""
    value = _member(message, key)
    if type(value) is not int or not least <= value <= most:
        raise Malformed(f"{key} {repr(value)[:40]} is no number from {least} to {most}")
    return value


def text(message: Message, key: str, most: int = 4096) -> str:
    """A string of at most `most` characters."""
    value = _member(message, key)
    if type(value) is not str or len(value) > most:
        raise Malformed(f"{key} is no text of at most {most} characters")
    return value


def flag(message: Message, key: str) -> bool:
    """true or false."""
    value = _member(message, key)
    if type(value) is not bool:
        raise Malformed(f"{key} is neither true nor false")
    return value


def texts(message: Message, key: str, most: int = 4096) -> list[str]:
    """An array of strings of at most `most` characters each."""
    value = _member(message, key)
    if type(value) is not list or len(value) > MAX_LIST or not all(type(x) is str and len(x) <= most for x in value):
        raise Malformed(f"{key} is no list of texts")
    return value


def numbers(message: Message, key: str, most: int = MAX_NUMBER) -> list[int]:
    """An array of integers from 0 to `most`."""
    value = _member(message, key)
    if type(value) is not list or len(value) > MAX_LIST or not all(type(x) is int and 0 <= x <= most for x in value):
        raise Malformed(f"{key} is no list of numbers")
    return value


def mapping(message: Message, key: str) -> Message:
    """An object."""
    value = _member(message, key)
    if type(value) is not dict:
        raise Malformed(f"{key} is no object")
    return value


def mappings(message: Message, key: str) -> list[Message]:
    """An array of objects."""
    value = _member(message, key)
    if type(value) is not list or not all(type(x) is dict for x in value):
        raise Malformed(f"{key} is no list of objects")
    return value


def _member(message: Message, key: str) -> object:
    try:
        return message[key]
    except KeyError:
        raise Malformed(f"the message lacks {key}") from None
