"""The store in memory: its rows and attempts, and what records do to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rowmill.domain.batch import (
    ATTEMPT_MOVES,
    ROW_MOVES,
    SHARED_ENDS,
    AttemptMove,
    AttemptState,
    Outcome,
    RowMove,
    RowState,
    Spent,
)
from rowmill.ports.store import (
    Attach,
    AttemptKey,
    BatchRecord,
    Finish,
    GiveUp,
    Intend,
    Lose,
    NewRow,
    Refuse,
    RowJob,
    RowResult,
)
from rowmill.store.bounds import bounded_tokens

if TYPE_CHECKING:
    from rowmill.ports.store import OutputFile


@dataclass(slots=True)
class Row:
    new: NewRow
    state: RowState
    tries: int = 0
    refused: int = 0
    due_at: float | None = None
    outputs: str | None = None
    error: str | None = None
    cause: str | None = None
    tokens: int | None = None
    seconds: float | None = None
    price: str | None = None
    currency: str | None = None
    run_id: str | None = None
    workflow_id: str | None = None
    leader: Row | None = None
    origin: Row | None = None

    @property
    def is_taken(self) -> bool:
        """Whether its end is another row's, and cost nothing of its own."""
        return self.state in SHARED_ENDS and (self.leader is not None or self.origin is not None)

    def clear(self) -> None:
        self.outputs = self.error = self.cause = self.due_at = None

    def job(self) -> RowJob:
        return RowJob(self.new.position, self.new.inputs, self.tries, self.refused)

    def result(self, files: list[OutputFile]) -> RowResult:
        return RowResult(
            position=self.new.position,
            number=self.new.number,
            cells=self.new.cells,
            inputs=self.new.inputs,
            state=self.state,
            outputs=self.outputs,
            error=self.error,
            cause=self.cause,
            tokens=self.tokens,
            seconds=self.seconds,
            attempts=self.tries - self.refused,
            run_id=self.run_id,
            price=self.price,
            currency=self.currency,
            workflow_id=self.workflow_id,
            leader=self.leader.new.position if self.leader else None,
            shared_with=self.leader.new.number if self.leader else None,
            origin=self.origin.new.position if self.origin else None,
            reused_row=self.origin.new.number if self.origin else None,
            files=tuple(files),
        )


@dataclass(slots=True)
class Attempt:
    key: AttemptKey
    slot: int
    user: str
    sent_at: float
    state: AttemptState = AttemptState.INTENT
    run_id: str | None = None
    task_id: str | None = None
    workflow_id: str | None = None
    ahead: float = 0.0
    cause: str | None = None
    outcome: Outcome | None = None
    ended_at: float | None = None


@dataclass(slots=True)
class Batch:
    record: BatchRecord
    rows: dict[int, Row] = field(default_factory=dict)
    attempts: dict[tuple[int, int], Attempt] = field(default_factory=dict)
    touched: int = 0
    spent_before: Spent = field(default_factory=Spent)

    def in_order(self) -> list[Row]:
        return [self.rows[position] for position in sorted(self.rows)]


def last_attempt(batch_id: str, row: Row) -> AttemptKey:
    return AttemptKey(batch_id, row.new.position, row.tries)


def intend(batch: Batch, row: Row, record: Intend) -> bool:
    sources, target = ROW_MOVES[RowMove.START]
    if row.leader is not None or row.origin is not None:
        return False
    if row.state not in sources or row.tries != record.key.number - 1:
        return False
    row.clear()
    row.run_id = row.workflow_id = None
    row.state, row.tries = target, record.key.number
    place = (record.key.position, record.key.number)
    batch.attempts[place] = Attempt(record.key, record.slot, record.user, record.sent_at)
    return True


def end_or_go_on(attempt: Attempt, row: Row, record: Attach | Lose | Finish | Refuse | GiveUp) -> bool:
    """The attempt moves, and its row with it unless the row has gone on to a newer attempt; or neither does."""
    sources, target = ATTEMPT_MOVES[_attempt_move(record)]
    row_sources, row_target = _row_move(attempt, row, record)
    is_latest = row.tries == record.key.number
    if attempt.state not in sources or (is_latest and row.state not in row_sources):
        return False
    attempt.state = target
    _note(attempt, record)
    if is_latest:
        _change_row(row, attempt, record, row_target)
    return True


def _attempt_move(record: Attach | Lose | Finish | Refuse | GiveUp) -> AttemptMove:
    match record:
        case Attach():
            return AttemptMove.ATTACH
        case Lose():
            return AttemptMove.LOSE
        case Finish():
            return AttemptMove.FINISH
        case Refuse():
            return AttemptMove.REFUSE
        case GiveUp():
            return AttemptMove.GIVE_UP


def _row_move(
    attempt: Attempt, row: Row, record: Attach | Lose | Finish | Refuse | GiveUp
) -> tuple[frozenset[RowState], RowState]:
    match record:
        case Attach() if attempt.state is AttemptState.INDETERMINATE:
            return frozenset({RowState.UNKNOWN}), RowState.RUNNING
        case Attach() | Lose():
            return frozenset({row.state}), row.state
        case Finish():
            return ROW_MOVES[record.move]
        case Refuse():
            return ROW_MOVES[record.move or RowMove.PUT_BACK]
        case GiveUp():
            return ROW_MOVES[RowMove.LOSE]


def _note(attempt: Attempt, record: Attach | Lose | Finish | Refuse | GiveUp) -> None:
    match record:
        case Attach():
            attempt.run_id = _newer(record.run_id, attempt.run_id)
            attempt.task_id = _newer(record.task_id, attempt.task_id)
            attempt.workflow_id = _newer(record.workflow_id, attempt.workflow_id)
            attempt.ahead = record.ahead
        case Finish():
            attempt.run_id = _newer(record.outcome.run_id, attempt.run_id)
            attempt.task_id = _newer(record.outcome.task_id, attempt.task_id)
            attempt.workflow_id = _newer(record.outcome.workflow_id, attempt.workflow_id)
            attempt.outcome = record.outcome
            attempt.ended_at = record.ended_at
        case _:
            attempt.cause = record.cause


def _newer(new: str | None, known: str | None) -> str | None:
    return known if new is None else new


def _change_row(row: Row, attempt: Attempt, record: Attach | Lose | Finish | Refuse | GiveUp, target: RowState) -> None:
    match record:
        case Attach() if target is not row.state:
            row.cause = row.error = None
        case Finish():
            _keep_outcome(row, attempt, record)
        case Refuse():
            row.refused += 0 if record.counts else 1
            row.due_at = record.due_at
            if target is not RowState.PENDING:
                row.cause, row.error = record.cause, record.error
        case GiveUp():
            row.cause, row.error = record.cause, record.error
            row.run_id, row.workflow_id = attempt.run_id, attempt.workflow_id
        case _:
            pass
    row.state = target


def _keep_outcome(row: Row, attempt: Attempt, record: Finish) -> None:
    outcome = record.outcome
    row.outputs, row.error, row.cause = outcome.outputs, outcome.error, record.cause
    row.tokens = bounded_tokens(outcome.tokens)
    row.seconds = outcome.seconds if record.seconds is None else record.seconds
    row.price, row.currency, row.due_at = outcome.price, outcome.currency, record.due_at
    row.run_id, row.workflow_id = attempt.run_id, attempt.workflow_id
