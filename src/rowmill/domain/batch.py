"""Batch, row and attempt: their states and the one table of legal moves for each.

The store applies a move only where the state in the database allows it (`WHERE state IN …`), so a late write
to something that has ended changes nothing: ended attempts are absorbing.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from rowmill.domain.errors import IllegalMoveError
from rowmill.domain.money import total


class RowState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    STOPPED = "stopped"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"

    @property
    def is_done(self) -> bool:
        return self not in (RowState.PENDING, RowState.RUNNING, RowState.WAITING)


class RowMove(StrEnum):
    """What can happen to a row."""

    SKIP = "skip"
    START = "start"
    PUT_BACK = "put_back"
    WAIT = "wait"
    SUCCEED = "succeed"
    SUCCEED_IN_PART = "succeed_in_part"
    FAIL = "fail"
    STOP = "stop"
    LOSE = "lose"
    ASK = "ask"
    """its run waits for a person; so does the row, without a moment at which it is due"""
    BREAK = "break"
    """an earlier turn of its conversation has no answer: it is not sent"""
    RETRY = "retry"


# Waiting: for a person. A row that waits for its next attempt has none that could still end.
_OPEN = frozenset({RowState.RUNNING, RowState.UNKNOWN, RowState.WAITING})

ROW_MOVES: dict[RowMove, tuple[frozenset[RowState], RowState]] = {
    RowMove.SKIP: (frozenset({RowState.PENDING}), RowState.SKIPPED),
    RowMove.START: (frozenset({RowState.PENDING, RowState.WAITING}), RowState.RUNNING),
    RowMove.PUT_BACK: (_OPEN - {RowState.WAITING}, RowState.PENDING),
    RowMove.WAIT: (_OPEN, RowState.WAITING),
    RowMove.SUCCEED: (_OPEN, RowState.SUCCEEDED),
    RowMove.SUCCEED_IN_PART: (_OPEN, RowState.PARTIAL),
    RowMove.FAIL: (_OPEN, RowState.FAILED),
    RowMove.STOP: (_OPEN, RowState.STOPPED),
    RowMove.LOSE: (frozenset({RowState.RUNNING}), RowState.UNKNOWN),
    RowMove.ASK: (frozenset({RowState.RUNNING, RowState.UNKNOWN}), RowState.WAITING),
    RowMove.BREAK: (frozenset({RowState.PENDING}), RowState.FAILED),
    RowMove.RETRY: (
        frozenset({RowState.FAILED, RowState.STOPPED, RowState.UNKNOWN, RowState.WAITING}),
        RowState.PENDING,
    ),
}

# What is put back only by its cause: it may have been paid for, or still come to a good end.
RETRIED_BY_CAUSE_ONLY = frozenset({RowState.UNKNOWN, RowState.WAITING})


# How a row that leads others can end, and which of those that follow it then take its end. They also wait for a person
# with it. One that took `unknown`, or waits so, takes what is found out about its leader later on.
SHARED_ENDS = frozenset(state for state in RowState if state.is_done and state is not RowState.SKIPPED)
TAKES_A_SHARE = frozenset({RowState.PENDING, RowState.UNKNOWN, RowState.WAITING})


class AttemptState(StrEnum):
    """`intent`: committed, bytes may have left. `attached`: its run id is known. `unknown`: its reply was lost and is
    being looked for. `paused`: its run waits for a person, who may take days; its slot is free, because its run id
    tells it from others. `done`, `refused` (no run was started) and `indeterminate` (looked for in vain) are ends; only
    an indeterminate attempt can still be found out to be paused or done."""

    INTENT = "intent"
    ATTACHED = "attached"
    UNKNOWN = "unknown"
    PAUSED = "paused"
    DONE = "done"
    REFUSED = "refused"
    INDETERMINATE = "indeterminate"


class AttemptMove(StrEnum):
    ATTACH = "attach"
    LOSE = "lose"
    ASK = "ask"
    FINISH = "finish"
    REFUSE = "refuse"
    GIVE_UP = "give_up"


ATTEMPT_MOVES: dict[AttemptMove, tuple[frozenset[AttemptState], AttemptState]] = {
    AttemptMove.ATTACH: (
        frozenset({AttemptState.INTENT, AttemptState.UNKNOWN, AttemptState.INDETERMINATE}),
        AttemptState.ATTACHED,
    ),
    AttemptMove.LOSE: (frozenset({AttemptState.INTENT}), AttemptState.UNKNOWN),
    AttemptMove.ASK: (
        frozenset({AttemptState.INTENT, AttemptState.ATTACHED, AttemptState.UNKNOWN, AttemptState.INDETERMINATE}),
        AttemptState.PAUSED,
    ),
    AttemptMove.FINISH: (
        frozenset(
            {
                AttemptState.INTENT,
                AttemptState.ATTACHED,
                AttemptState.UNKNOWN,
                AttemptState.PAUSED,
                AttemptState.INDETERMINATE,
            }
        ),
        AttemptState.DONE,
    ),
    AttemptMove.REFUSE: (frozenset({AttemptState.INTENT, AttemptState.UNKNOWN}), AttemptState.REFUSED),
    AttemptMove.GIVE_UP: (
        frozenset({AttemptState.INTENT, AttemptState.ATTACHED, AttemptState.UNKNOWN}),
        AttemptState.INDETERMINATE,
    ),
}

# An attempt that may still turn out to be, or to become, a run on Dify: its slot user must not serve another row.
OPEN_ATTEMPTS = frozenset(
    {AttemptState.INTENT, AttemptState.ATTACHED, AttemptState.UNKNOWN, AttemptState.INDETERMINATE}
)


class BatchState(StrEnum):
    DRAFT = "draft"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    COMPLETED = "completed"
    DELETED = "deleted"
    """shown nowhere any more; its rows are being removed, a few thousand at a time"""


class BatchMove(StrEnum):
    CHECKED = "checked"
    START = "start"
    PAUSE = "pause"
    DRAINED = "drained"
    STOP = "stop"
    COMPLETE = "complete"
    RETRY = "retry"
    DELETE = "delete"
    APPEND = "append"


# The last wish wins: who pauses, stops and starts again in a hurry gets what was wished for last.
BATCH_MOVES: dict[BatchMove, dict[BatchState, BatchState]] = {
    BatchMove.CHECKED: {BatchState.DRAFT: BatchState.QUEUED},
    BatchMove.START: {
        BatchState.QUEUED: BatchState.RUNNING,
        BatchState.PAUSED: BatchState.RUNNING,
        BatchState.STOPPED: BatchState.RUNNING,
        BatchState.STOPPING: BatchState.RUNNING,
        # A killed process leaves these behind too; the next one goes on from them.
        BatchState.RUNNING: BatchState.RUNNING,
        BatchState.PAUSING: BatchState.RUNNING,
    },
    BatchMove.PAUSE: {
        BatchState.QUEUED: BatchState.PAUSED,
        BatchState.RUNNING: BatchState.PAUSING,
        BatchState.STOPPING: BatchState.PAUSING,
        BatchState.PAUSING: BatchState.PAUSING,
        BatchState.PAUSED: BatchState.PAUSED,
    },
    BatchMove.DRAINED: {BatchState.PAUSING: BatchState.PAUSED, BatchState.STOPPING: BatchState.STOPPED},
    BatchMove.STOP: {
        BatchState.QUEUED: BatchState.STOPPED,
        BatchState.PAUSED: BatchState.STOPPED,
        BatchState.STOPPED: BatchState.STOPPED,
        BatchState.RUNNING: BatchState.STOPPING,
        BatchState.PAUSING: BatchState.STOPPING,
        BatchState.STOPPING: BatchState.STOPPING,
    },
    BatchMove.COMPLETE: {
        BatchState.RUNNING: BatchState.COMPLETED,
        BatchState.PAUSING: BatchState.COMPLETED,
        BatchState.STOPPING: BatchState.COMPLETED,
    },
    BatchMove.RETRY: {
        BatchState.COMPLETED: BatchState.QUEUED,
        BatchState.PAUSED: BatchState.PAUSED,
        BatchState.STOPPED: BatchState.QUEUED,
        BatchState.QUEUED: BatchState.QUEUED,
        # The rows are taken up by whoever runs the batch.
        BatchState.RUNNING: BatchState.RUNNING,
        BatchState.PAUSING: BatchState.PAUSING,
    },
    BatchMove.DELETE: {
        BatchState.DRAFT: BatchState.DELETED,
        BatchState.QUEUED: BatchState.DELETED,
        BatchState.PAUSED: BatchState.DELETED,
        BatchState.STOPPED: BatchState.DELETED,
        BatchState.COMPLETED: BatchState.DELETED,
        BatchState.DELETED: BatchState.DELETED,
    },
    # Only where nobody can be working on it: a batch that a killed process left running is to be resumed first.
    BatchMove.APPEND: {
        BatchState.QUEUED: BatchState.QUEUED,
        BatchState.PAUSED: BatchState.PAUSED,
        BatchState.STOPPED: BatchState.QUEUED,
        BatchState.COMPLETED: BatchState.QUEUED,
    },
}

UNFINISHED = frozenset(
    {BatchState.QUEUED, BatchState.RUNNING, BatchState.PAUSING, BatchState.PAUSED, BatchState.STOPPING}
)


# Nobody works on it, and somebody may start it.
IDLE = frozenset({BatchState.QUEUED, BatchState.PAUSED, BatchState.STOPPED})
# What lists show.
HIDDEN = frozenset({BatchState.DRAFT, BatchState.DELETED})


def next_batch_state(state: BatchState, move: BatchMove) -> BatchState:
    """Where a move leads; raises IllegalMoveError where the table has no such move."""
    try:
        return BATCH_MOVES[move][state]
    except KeyError:
        raise IllegalMoveError("illegal_move", thing="batch", state=state.value, move=move.value) from None


def closing_moves(state: BatchState, left: int, *, wants_to_end: bool) -> tuple[BatchMove, ...]:
    """The moves with which the runner of a batch lays it down when nothing of it is under way any more; none where the
    last wish is to go on. `left`: rows that have not come to their end. `wants_to_end`: the runner has a reason of its
    own to end before that."""
    match state:
        case BatchState.RUNNING | BatchState.PAUSING | BatchState.STOPPING if left == 0:
            return (BatchMove.COMPLETE,)
        case BatchState.PAUSING | BatchState.STOPPING:
            return (BatchMove.DRAINED,)
        case BatchState.RUNNING if wants_to_end:
            return BatchMove.PAUSE, BatchMove.DRAINED
        case _:
            return ()


class RunStatus(StrEnum):
    """How Dify says that a run ended."""

    SUCCEEDED = "succeeded"
    PARTIAL = "partial-succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one run. `outputs` is Dify's own JSON text, untouched; `price` a decimal text in `currency`."""

    status: RunStatus
    outputs: str = "{}"
    error: str | None = None
    tokens: int | None = None
    seconds: float | None = None
    run_id: str | None = None
    task_id: str | None = None
    workflow_id: str | None = None
    conversation_id: str | None = None
    message_id: str | None = None
    price: str | None = None
    currency: str | None = None
    asks: str | None = None
    """of a paused run: what it asks a person for, as JSON text; a list of objects with Dify's own names"""
    code: str | None = None
    """Dify's own error code, where an `error` event ended the run"""
    damaged: bool = False
    """the stream held bytes that are no UTF-8; they stand as U+FFFD in `outputs`"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a batch is to be run. Seconds where a time is meant.

    `concurrency`: exactly so many at once; None: as many as the server bears, at most `most`. `priority`: the batch's
    weight where several share an app. The limits are those of domain.brakes; `max_price` is a decimal text."""

    concurrency: int | None = None
    retries: int = 1
    row_timeout: float = 1800.0
    lost_window: float = 300.0
    pinned_workflow: str | None = None
    """every row is sent to this version of the app"""
    pin_first: bool = False
    """every row is sent to the version that the first run told"""
    share_duplicates: bool = False
    """of rows with the same inputs one is run, the others take its result"""
    since: str | None = None
    """the batch whose results unchanged rows take"""
    reuse_any_version: bool = False
    """… even if the app was published again meanwhile"""
    most: int = 50
    per_minute: float | None = None
    min_gap: float = 0.0
    response_mode: str = "auto"
    priority: float = 1.0
    max_failures: float | None = None
    max_tokens: int | None = None
    max_rows: int | None = None
    max_price: str | None = None
    max_seconds: float | None = None
    output: str | None = None
    """where the results were to go: whoever goes on with the batch means the same file"""

    @classmethod
    def from_json(cls, known: dict[str, Any]) -> Settings:
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a batch has cost: rows that ended or wait for a person, tokens, price in the currency that Dify tells; of
    several currencies the sum of all, so that a limit acts too soon rather than too late."""

    rows: int = 0
    tokens: int = 0
    price: Decimal = Decimal(0)

    def plus(self, *, rows: int = 0, tokens: int = 0, price: Decimal = Decimal(0)) -> Spent:
        return Spent(self.rows + rows, self.tokens + tokens, total((self.price, price)))
