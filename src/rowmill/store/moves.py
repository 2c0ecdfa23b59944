"""What a move, and what records tell, does to a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rowmill.domain.batch import BatchMove, BatchState, next_batch_state
from rowmill.ports.store import Ask, Attach, Finish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowmill.ports.store import BatchRecord, Record

_ENDS = frozenset({BatchState.STOPPED, BatchState.COMPLETED})


def moved(batch: BatchRecord, move: BatchMove, reason: str | None, detail: str | None, at: float) -> BatchRecord:
    """The batch after the move. Its reason stays while it drains, and where a repeated move names none."""
    state = next_batch_state(batch.state, move)
    if reason is None and (move is BatchMove.DRAINED or state is batch.state):
        reason, detail = batch.reason, batch.detail
    started = at if move is BatchMove.START and batch.started_at is None else batch.started_at
    ended = at if state in _ENDS else None
    return replace(batch, state=state, reason=reason, detail=detail, started_at=started, ended_at=ended)


def first_versions(records: Sequence[Record], answers: Sequence[bool]) -> dict[str, str]:
    """Batch id -> the first workflow id that records which took effect tell."""
    found: dict[str, str] = {}
    for record, took_effect in zip(records, answers, strict=True):
        told = _version(record)
        if took_effect and told is not None:
            found.setdefault(record.key.batch_id, told)
    return found


def _version(record: Record) -> str | None:
    match record:
        case Attach():
            return record.workflow_id
        case Ask() | Finish():
            return record.outcome.workflow_id
        case _:
            return None
