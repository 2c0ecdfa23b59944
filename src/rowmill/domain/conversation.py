"""Rows that are turns of one conversation: which of them may start.

They run one after the other in the order of the sheet. A turn is sent only when the one before it has its answer:
without that, the model would answer another question than the sheet asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rowmill.domain.batch import RowState
from rowmill.domain.form import CONVERSATION

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Before:
    """The turn before a row's own, as it stands."""

    state: RowState
    asks: bool = False
    """it waits for a person, who may take days"""
    conversation_id: str | None = None
    """Dify's id, from its answer"""


class Turn(StrEnum):
    NEXT = "next"
    """its turn has come"""
    LATER = "later"
    """the one before it is still to be run, or under way"""
    BROKEN = "broken"
    """the one before it has ended without an answer, or waits for a person"""


_ANSWERED = frozenset({RowState.SUCCEEDED, RowState.PARTIAL})
_UNDER_WAY = frozenset({RowState.PENDING, RowState.RUNNING, RowState.WAITING})


def judge_turn(before: Before | None) -> Turn:
    """Whether a pending row may start; None for the first turn of a conversation, and for a row of its own."""
    if before is None:
        return Turn.NEXT
    if before.state in _UNDER_WAY:
        return Turn.BROKEN if before.asks else Turn.LATER
    # An answer whose conversation is not known cannot be gone on from.
    return Turn.NEXT if before.state in _ANSWERED and before.conversation_id else Turn.BROKEN


def conversation_of(inputs: Mapping[str, Any]) -> str | None:
    """Which conversation of the sheet a row belongs to: the same text is the same conversation."""
    return str(inputs.get(CONVERSATION) or "").strip() or None
