"""What makes two rows the same."""

from __future__ import annotations

import datetime as dt

import pytest

from rowmill.domain.again import input_hash, row_key


def test_the_hash_is_of_the_inputs_and_not_of_their_order() -> None:
    one = input_hash({"a": "x", "b": {"c": [1, 2], "d": None}})
    assert one == input_hash({"b": {"d": None, "c": [1, 2]}, "a": "x"})
    assert len(one) == 16
    assert int(one, 16) >= 0


def test_the_hash_stays_what_it_is() -> None:
    """It is in databases: another one would make every row a new one."""
    assert input_hash({"query": "你好", "n": 3}) == "bf5da279f170a3ce"
    assert input_hash({}) == "01e7b720ff566d53"


@pytest.mark.parametrize(
    "inputs",
    [{"a": 3}, {"a": 3.0}, {"a": "3"}, {"a": True}, {"a": "true"}, {"a": None}, {}, {"b": 3}, {"a": "3 "}, {"a": [3]},
     {"a": "\ud83d"}, {"a": "\0"}, {"a": 10**30}, {"a": float("nan")}],
)  # fmt: skip
def test_different_inputs_differ(inputs: dict) -> None:
    others = [{"a": 4}, {"a": 3.5}, {"a": "4"}, {"a": False}, {"a": {}}, {"a": ["3"]}, {"A": 3}, {"a": 3, "b": None}]
    assert input_hash(inputs) not in {input_hash(other) for other in others}


def test_keys_are_texts_whatever_kind_of_cell_holds_them() -> None:
    assert row_key(("x", 7), 1) == row_key((" 7 ",), 0)
    assert row_key((None,), 0) == row_key((), 3)
    kinds = ["007", 7, 7.5, "", None, True, dt.date(2026, 1, 2), "\ud83d"]
    assert len({row_key((kind,), 0) for kind in kinds}) == len(kinds)
