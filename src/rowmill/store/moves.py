"""What a move does to a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rowmill.domain.batch import BatchMove, BatchState, next_batch_state

if TYPE_CHECKING:
    from rowmill.ports.store import BatchRecord

_ENDS = frozenset({BatchState.STOPPED, BatchState.COMPLETED})


def moved(batch: BatchRecord, move: BatchMove, reason: str | None, detail: str | None, at: float) -> BatchRecord:
    """The batch after the move. Its reason stays while it drains, and where a repeated move names none."""
    state = next_batch_state(batch.state, move)
    if reason is None and (move is BatchMove.DRAINED or state is batch.state):
        reason, detail = batch.reason, batch.detail
    started = at if move is BatchMove.START and batch.started_at is None else batch.started_at
    ended = at if state in _ENDS else None
    return replace(batch, state=state, reason=reason, detail=detail, started_at=started, ended_at=ended)
