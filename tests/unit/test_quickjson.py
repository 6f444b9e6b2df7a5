"""The CLI's JSON against the standard library's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan import quickjson

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(values)
def test_round_trip_as_the_standard_library(value: object) -> None:
    assert json.loads(quickjson.dumps(value)) == value
    assert quickjson.loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize("data", [b"", b"{", b"[1,]", b"1 2", b"nope", b'{"a" 1}'])
def test_bad_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        quickjson.loads(data)
