from __future__ import annotations

import pytest

from rowmill.domain.batch import RowState
from rowmill.domain.conversation import Before, Turn, conversation_of, judge_turn

EXPECTED = {
    RowState.PENDING: Turn.LATER,
    RowState.RUNNING: Turn.LATER,
    RowState.WAITING: Turn.LATER,
    RowState.SUCCEEDED: Turn.NEXT,
    RowState.PARTIAL: Turn.NEXT,
    RowState.FAILED: Turn.BROKEN,
    RowState.STOPPED: Turn.BROKEN,
    RowState.UNKNOWN: Turn.BROKEN,
    RowState.SKIPPED: Turn.BROKEN,
}


@pytest.mark.parametrize("state", RowState)
def test_turn(state):
    assert judge_turn(Before(state, conversation_id="c")) is EXPECTED[state]


def test_the_first_turn_and_a_row_of_its_own_may_start():
    assert judge_turn(None) is Turn.NEXT


def test_nobody_waits_for_a_person():
    assert judge_turn(Before(RowState.WAITING, asks=True, conversation_id="c")) is Turn.BROKEN


@pytest.mark.parametrize("conversation_id", [None, ""])
def test_an_answer_without_its_conversation_cannot_be_gone_on_from(conversation_id):
    assert judge_turn(Before(RowState.SUCCEEDED, conversation_id=conversation_id)) is Turn.BROKEN


NAMES = {"a": "a", " a\t": "a", "": None, "  ": None, None: None, "7": "7", "会话": "会话"}


@pytest.mark.parametrize(("cell", "name"), NAMES.items(), ids=map(repr, NAMES))
def test_name(cell, name):
    assert conversation_of({"sys.conversation": cell}) == name


def test_no_name():
    assert conversation_of({"sys.query": "q"}) is None
