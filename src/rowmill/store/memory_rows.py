"""Rows and attempts of the store in memory, and what records do to them."""

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
from rowmill.domain.conversation import Before
from rowmill.ports.store import (
    Ask,
    Attach,
    AttemptKey,
    BatchRecord,
    Break,
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
    from collections.abc import Sequence

    from rowmill.ports.store import OutputFile


@dataclass(slots=True)
class MemoryRow:
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
    asks: str | None = None
    conversation_id: str | None = None
    workflow_id: str | None = None
    leader: MemoryRow | None = None
    origin: MemoryRow | None = None

    @property
    def is_taken(self) -> bool:
        """Whether its end is another row's, and cost nothing of its own."""
        return self.has_end and (self.leader is not None or self.origin is not None)

    @property
    def leads(self) -> MemoryRow:
        """The row that is run for this one: itself, unless it follows another."""
        return self.leader or self

    @property
    def has_end(self) -> bool:
        """An end that others take: that it waits for a person, too."""
        return self.state in SHARED_ENDS or self.is_asking

    def clear(self) -> None:
        self.outputs = self.error = self.cause = self.due_at = self.asks = None

    def put_back(self) -> None:
        self.state = ROW_MOVES[RowMove.RETRY][1]
        self.clear()

    @property
    def is_asking(self) -> bool:
        return self.state is RowState.WAITING and self.due_at is None

    @property
    def goes_by_itself(self) -> bool:
        """Whether it waits for its next attempt."""
        return self.state is RowState.WAITING and not self.is_asking

    def result(self, files: Sequence[OutputFile] = ()) -> RowResult:
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
            files=tuple(files),
            asks=self.asks,
            conversation_id=self.conversation_id,
            workflow_id=self.workflow_id,
            leader=self.leader.new.position if self.leader else None,
            shared_with=self.leader.new.number if self.leader else None,
            origin=self.origin.new.position if self.origin else None,
            reused_row=self.origin.new.number if self.origin else None,
        )


@dataclass(slots=True)
class MemoryAttempt:
    key: AttemptKey
    slot: int
    user: str
    sent_at: float
    state: AttemptState = AttemptState.INTENT
    run_id: str | None = None
    task_id: str | None = None
    message_id: str | None = None
    conversation_id: str | None = None
    workflow_id: str | None = None
    ahead: float = 0.0
    cause: str | None = None
    outcome: Outcome | None = None
    ended_at: float | None = None


@dataclass(slots=True)
class MemoryBatch:
    record: BatchRecord
    rows: dict[int, MemoryRow] = field(default_factory=dict)
    attempts: dict[tuple[int, int], MemoryAttempt] = field(default_factory=dict)
    touched: int = 0
    spent_before: Spent = field(default_factory=Spent)

    def job(self, row: MemoryRow) -> RowJob:
        new, turns = row.new, self.turns(row.new.conversation)
        earlier = [turn for turn in turns if turn.new.position < new.position]
        last = earlier[-1] if earlier else None
        before = None if last is None else Before(last.state, last.is_asking, last.conversation_id)
        first = turns[0].new.position if turns else None
        return RowJob(new.position, new.inputs, row.tries, row.refused, new.conversation, first, before)

    def turns(self, conversation: str | None) -> list[MemoryRow]:
        """The rows of one conversation, in order."""
        return [row for row in self.in_order() if conversation is not None and row.new.conversation == conversation]

    def in_order(self) -> list[MemoryRow]:
        return [self.rows[position] for position in sorted(self.rows)]


def last_attempt(batch_id: str, row: MemoryRow) -> AttemptKey:
    return AttemptKey(batch_id, row.new.position, row.tries)


def intend(batch: MemoryBatch, row: MemoryRow, record: Intend) -> bool:
    sources, target = ROW_MOVES[RowMove.START]
    if row.leader is not None or row.origin is not None:
        return False
    if row.state not in sources or row.tries != record.key.number - 1:
        return False
    row.clear()
    row.run_id = row.conversation_id = row.workflow_id = None
    row.state, row.tries = target, record.key.number
    place = (record.key.position, record.key.number)
    batch.attempts[place] = MemoryAttempt(record.key, record.slot, record.user, record.sent_at)
    return True


def end_or_go_on(
    attempt: MemoryAttempt, row: MemoryRow, record: Attach | Lose | Ask | Finish | Refuse | GiveUp
) -> bool:
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


def _attempt_move(record: Attach | Lose | Ask | Finish | Refuse | GiveUp) -> AttemptMove:
    match record:
        case Attach():
            return AttemptMove.ATTACH
        case Lose():
            return AttemptMove.LOSE
        case Ask():
            return AttemptMove.ASK
        case Finish():
            return AttemptMove.FINISH
        case Refuse():
            return AttemptMove.REFUSE
        case GiveUp():
            return AttemptMove.GIVE_UP


def _row_move(
    attempt: MemoryAttempt, row: MemoryRow, record: Attach | Lose | Ask | Finish | Refuse | GiveUp
) -> tuple[frozenset[RowState], RowState]:
    match record:
        case Attach() if attempt.state is AttemptState.INDETERMINATE:
            return frozenset({RowState.UNKNOWN}), RowState.RUNNING
        case Ask():
            return ROW_MOVES[RowMove.ASK]
        case Attach() | Lose():
            return frozenset({row.state}), row.state
        case Finish():
            return ROW_MOVES[record.move]
        case Refuse():
            return ROW_MOVES[record.move or RowMove.PUT_BACK]
        case GiveUp():
            return ROW_MOVES[RowMove.LOSE]


def _note(attempt: MemoryAttempt, record: Attach | Lose | Ask | Finish | Refuse | GiveUp) -> None:
    match record:
        case Attach():
            _note_ids(attempt, record)
            attempt.ahead = record.ahead
        case Finish():
            _note_ids(attempt, record.outcome)
            attempt.outcome, attempt.ended_at = record.outcome, record.ended_at
        case Ask():
            _note_ids(attempt, record.outcome)
            attempt.cause, attempt.outcome = record.cause, record.outcome
        case _:
            attempt.cause = record.cause


def _note_ids(attempt: MemoryAttempt, told: Attach | Outcome) -> None:
    attempt.run_id = _newer(told.run_id, attempt.run_id)
    attempt.task_id = _newer(told.task_id, attempt.task_id)
    attempt.message_id = _newer(told.message_id, attempt.message_id)
    attempt.conversation_id = _newer(told.conversation_id, attempt.conversation_id)
    attempt.workflow_id = _newer(told.workflow_id, attempt.workflow_id)


def _newer(new: str | None, known: str | None) -> str | None:
    return known if new is None else new


def _change_row(
    row: MemoryRow, attempt: MemoryAttempt, record: Attach | Lose | Ask | Finish | Refuse | GiveUp, target: RowState
) -> None:
    match record:
        case Attach() if target is not row.state:
            row.cause = row.error = None
        case Ask():
            _keep_spent(row, attempt, record)
            row.asks = _newer(record.outcome.asks, row.asks)
            row.cause, row.error, row.due_at = record.cause, None, None
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


def _keep_outcome(row: MemoryRow, attempt: MemoryAttempt, record: Finish) -> None:
    outcome = record.outcome
    _keep_spent(row, attempt, record)
    row.outputs, row.error, row.cause, row.asks = outcome.outputs, outcome.error, record.cause, None
    row.due_at = record.due_at


def _keep_spent(row: MemoryRow, attempt: MemoryAttempt, record: Ask | Finish) -> None:
    outcome = record.outcome
    row.tokens = bounded_tokens(outcome.tokens)
    row.seconds = outcome.seconds if record.seconds is None else record.seconds
    row.price, row.currency, row.run_id = outcome.price, outcome.currency, attempt.run_id
    row.conversation_id, row.workflow_id = attempt.conversation_id, attempt.workflow_id


def break_off(batch: MemoryBatch, row: MemoryRow, record: Break) -> bool:
    sources, target = ROW_MOVES[RowMove.BREAK]
    later = [turn for turn in batch.turns(row.new.conversation) if turn.new.position >= row.new.position]
    broken = [turn for turn in later if turn.state in sources]
    for turn in broken:
        turn.state, turn.cause = target, record.cause
    return bool(broken)
