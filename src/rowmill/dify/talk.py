"""Lines of `/conversations` and `/messages` -> what the engine looks for (contract §2.12; recordings 15)."""

from __future__ import annotations

from typing import Any

from rowmill.dify.events import answer_json
from rowmill.dify.raw import clean_text
from rowmill.domain.batch import Outcome, RunStatus
from rowmill.ports.dify import Conversation, Said


def read_conversation(line: Any) -> Conversation | None:
    if not isinstance(line, dict) or (own_id := clean_text(line.get("id"))) is None:
        return None
    return Conversation(own_id, max(_moment(line.get("updated_at")), _moment(line.get("created_at"))))


def read_said(line: Any) -> Said | None:
    if not isinstance(line, dict) or (own_id := clean_text(line.get("id"))) is None:
        return None
    inputs = line.get("inputs")
    return Said(
        message_id=own_id,
        conversation_id=str(line.get("conversation_id") or ""),
        query=str(line.get("query") or ""),
        created_at=_moment(line.get("created_at")),
        outcome=_outcome(line, own_id),
        inputs=inputs if isinstance(inputs, dict) else {},
    )


def _outcome(line: dict[str, Any], message_id: str) -> Outcome | None:
    """Dify saves an answer when it is whole: an empty one is not finished, or was never saved. Its usage is not
    shown here."""
    place, error = clean_text(line.get("conversation_id")), clean_text(line.get("error"))
    if line.get("status") == "error" or error is not None:
        return Outcome(RunStatus.FAILED, error=error, message_id=message_id, conversation_id=place)
    if line.get("status") != "normal" or not line.get("answer"):
        return None
    answer = answer_json(line["answer"])
    return Outcome(RunStatus.SUCCEEDED, answer, message_id=message_id, conversation_id=place)


def _moment(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
