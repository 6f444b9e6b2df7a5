"""Tokens and keys of the page."""

from __future__ import annotations

from sampan.web.sessions import KEY_LIFE, TOKEN_LIFE, Sessions


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_token_counts_once_and_not_for_long() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    token = sessions.offer("alice")
    key = sessions.redeem(token)
    assert key is not None
    assert sessions.user(key) == "alice"
    assert sessions.redeem(token) is None
    assert sessions.user(token) is None
    assert sessions.redeem("nonsense") is None
    late = sessions.offer("bob")
    clock.now += TOKEN_LIFE + 1
    assert sessions.redeem(late) is None
    assert sessions.user(key) == "alice"


def test_a_key_lives_while_it_is_used() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    key = sessions.redeem(sessions.offer("alice")) or ""
    for _ in range(3):
        clock.now += KEY_LIFE - 1
        assert sessions.user(key) == "alice"
    clock.now += KEY_LIFE + 1
    assert sessions.user(key) is None
    other = sessions.redeem(sessions.offer("bob")) or ""
    sessions.clear()
    assert sessions.user(other) is None


def test_tokens_that_nobody_uses_do_not_pile_up() -> None:
    sessions = Sessions(Clock())
    first = sessions.offer("alice")
    for _ in range(100):
        last = sessions.offer("alice")
    assert sessions.redeem(first) is None
    assert sessions.redeem(last) is not None
