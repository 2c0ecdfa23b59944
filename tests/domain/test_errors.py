from __future__ import annotations

import pytest

from rowmill.domain.errors import (
    AppError,
    DifyFailureError,
    FencedError,
    IllegalMoveError,
    MappingError,
    RowmillError,
    SheetError,
    StoreError,
    UsageError,
)
from rowmill.domain.events import Event, Fact
from rowmill.domain.verdict import Failure, FailureKind

TREE = {
    UsageError: RowmillError,
    SheetError: UsageError,
    MappingError: UsageError,
    AppError: UsageError,
    IllegalMoveError: RowmillError,
    StoreError: RowmillError,
    FencedError: StoreError,
    DifyFailureError: RowmillError,
    RowmillError: Exception,
}


@pytest.mark.parametrize(("error", "parent"), TREE.items(), ids=[e.__name__ for e in TREE])
def test_tree(error, parent):
    assert error.__bases__ == (parent,)


def test_text_is_the_code_with_its_numbers():
    error = SheetError("cell_too_long", row=3, limit=None, path="a b")
    assert str(error) == "cell_too_long(row=3, limit=None, path='a b')"
    assert (error.code, error.params) == ("cell_too_long", {"row": 3, "limit": None, "path": "a b"})


def test_text_without_numbers():
    assert str(UsageError("nothing_to_do")) == "nothing_to_do()"


def test_control_characters_do_not_reach_a_terminal():
    assert "\x1b" not in str(RowmillError("x", found="\x1b[2J"))


def test_failure_of_dify():
    failure = Failure(FailureKind.REFUSED, "unauthorized", "Access token is invalid", 401, 5.0)
    error = DifyFailureError(failure)
    assert error.failure is failure
    assert str(error) == "unauthorized(status=401, message='Access token is invalid')"


def test_event():
    assert Event(Fact.GATE).params == {}
    assert Event(Fact.GATE, {"seconds": 2.0}) != Event(Fact.GATE)
