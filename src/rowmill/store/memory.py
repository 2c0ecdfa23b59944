"""The store in memory: the plain model that the one in a database is compared with, and enough for a dry run."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rowmill.domain.batch import (
    ATTEMPT_MOVES,
    OPEN_ATTEMPTS,
    ROW_MOVES,
    UNFINISHED,
    AttemptMove,
    AttemptState,
    BatchMove,
    BatchState,
    Outcome,
    RowMove,
    RowState,
)
from rowmill.domain.errors import FencedError, IllegalMoveError, StoreError
from rowmill.domain.progress import Counts
from rowmill.ports.store import (
    AppendedSheet,
    AppRecord,
    Attach,
    AttemptKey,
    BatchRecord,
    BatchSummary,
    Finish,
    GiveUp,
    Intend,
    Lose,
    NewRow,
    OpenAttempt,
    Record,
    Refuse,
    RowJob,
    RowResult,
)
from rowmill.store.bounds import FAR_AHEAD, bounded_tokens
from rowmill.store.memory_reuse import ReuseMemory
from rowmill.store.memory_sharing import SharingMemory
from rowmill.store.moves import first_versions, moved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rowmill.domain.batch import Settings


@dataclass(slots=True)
class _Row:
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
    leader: _Row | None = None
    origin: _Row | None = None

    def clear(self) -> None:
        self.outputs = self.error = self.cause = self.due_at = None

    def job(self) -> RowJob:
        return RowJob(self.new.position, self.new.inputs, self.tries, self.refused)

    def result(self) -> RowResult:
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
        )


@dataclass(slots=True)
class _Attempt:
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


@dataclass(slots=True)
class _Batch:
    record: BatchRecord
    rows: dict[int, _Row] = field(default_factory=dict)
    attempts: dict[tuple[int, int], _Attempt] = field(default_factory=dict)

    def in_order(self) -> list[_Row]:
        return [self.rows[position] for position in sorted(self.rows)]


class MemoryStore(SharingMemory, ReuseMemory):
    """See rowmill.ports.store; survives nothing."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._fence = 0
        self._apps: dict[str, AppRecord] = {}
        self._batches: dict[str, _Batch] = {}

    def take_over(self, owner: str) -> int:  # noqa: ARG002  nobody reads it here
        with self._lock:
            self._fence += 1
            return self._fence

    def save_app(self, app: AppRecord) -> AppRecord:
        with self._lock:
            self._apps[app.id] = app
        return app

    def find_app(self, app_id: str) -> AppRecord | None:
        return self._apps.get(app_id)

    def add_batch(self, batch: BatchRecord) -> None:
        with self._lock:
            if batch.id in self._batches or batch.app.id not in self._apps:
                raise StoreError("store_conflict", path="memory", detail=batch.id)
            self._batches[batch.id] = _Batch(batch)

    def add_rows(self, batch_id: str, rows: Sequence[NewRow]) -> None:
        with self._lock:
            batch = self._draft(batch_id, "add_rows")
            new = {row.position: _Row(row, RowState.SKIPPED if row.blank else RowState.PENDING) for row in rows}
            if len(new) < len(rows) or new.keys() & batch.rows.keys():
                raise StoreError("store_conflict", path="memory", detail="a position stands twice")
            batch.rows |= new

    def drop_batch(self, batch_id: str) -> None:
        with self._lock:
            self._draft(batch_id, "drop")
            del self._batches[batch_id]

    def append_rows(self, batch_id: str, draft_id: str, sheet: AppendedSheet) -> BatchState:
        with self._lock:
            draft, batch = self._draft(draft_id, "append"), self._known(batch_id)
            record = moved(batch.record, BatchMove.APPEND, None, None, 0.0)
            first = max(batch.rows, default=-1) + 1
            added = [_Row(replace(row.new, position=row.new.position + first), row.state) for row in draft.in_order()]
            batch.rows |= {row.new.position: row for row in added}
            known = replace(sheet, first=first, rows=len(added))
            batch.record = replace(record, appended=(*record.appended, known))
            del self._batches[draft_id]
            if record.settings.share_duplicates:
                self.follow(batch_id, first)
            return record.state

    def sweep_drafts(self, older_than: float) -> int:
        with self._lock:
            drafts = self._records(lambda batch: batch.state is BatchState.DRAFT and batch.created_at < older_than)
            for draft in drafts:
                del self._batches[draft.id]
            return len(drafts)

    def _draft(self, batch_id: str, move: str) -> _Batch:
        batch = self._known(batch_id)
        if batch.record.state is not BatchState.DRAFT:
            raise IllegalMoveError("illegal_move", thing="batch", state=batch.record.state.value, move=move)
        return batch

    def _known(self, batch_id: str) -> _Batch:
        batch = self._batches.get(batch_id)
        if batch is None:
            raise StoreError("store_no_batch", batch=batch_id)
        return batch

    def batch(self, batch_id: str) -> BatchRecord | None:
        with self._lock:
            batch = self._batches.get(batch_id)
            return None if batch is None else replace(batch.record, app=self._apps[batch.record.app.id])

    def batches(self) -> list[BatchSummary]:
        return self._summaries(lambda batch: batch.state is not BatchState.DRAFT)

    def find_batch_ids(self, prefix: str) -> list[str]:
        with self._lock:
            return [
                batch.id
                for batch in self._records(lambda batch: batch.state is not BatchState.DRAFT)
                if batch.id.startswith(prefix)
            ]

    def unfinished(self, app_id: str, sheet_digest: str, sheet_name: str) -> list[BatchSummary]:
        wanted = (app_id, sheet_digest, sheet_name)
        return self._summaries(
            lambda batch: batch.state in UNFINISHED and (batch.app.id, batch.sheet_digest, batch.sheet_name) == wanted
        )

    def _records(self, which: Callable[[BatchRecord], bool]) -> list[BatchRecord]:
        found = [batch.record for batch in self._batches.values() if which(batch.record)]
        return sorted(found, key=lambda batch: (batch.created_at, batch.id), reverse=True)

    def _summaries(self, which: Callable[[BatchRecord], bool]) -> list[BatchSummary]:
        with self._lock:
            return [
                BatchSummary(
                    id=batch.id,
                    state=batch.state,
                    app_name=self._apps[batch.app.id].name,
                    base_url=self._apps[batch.app.id].base_url,
                    sheet_path=batch.sheet_path,
                    created_at=batch.created_at,
                    reason=batch.reason,
                    counts=self.counts(batch.id),
                )
                for batch in self._records(which)
            ]

    def move_batch(
        self, batch_id: str, move: BatchMove, *, reason: str | None = None, detail: str | None = None, at: float = 0.0
    ) -> BatchState:
        with self._lock:
            batch = self._known(batch_id)
            batch.record = moved(batch.record, move, reason, detail, at)
            return batch.record.state

    def change_settings(self, batch_id: str, settings: Settings) -> None:
        with self._lock:
            batch = self._known(batch_id)
            batch.record = replace(batch.record, settings=settings)

    def write(self, records: Sequence[Record], fence: int) -> list[bool]:
        with self._lock:
            if fence != self._fence:
                raise FencedError("fenced", fence=fence, newest=self._fence)
            answers = [self._apply(record) for record in records]
            for batch_id, workflow_id in first_versions(records, answers).items():
                batch = self._batches[batch_id]
                if batch.record.workflow_id is None:
                    batch.record = replace(batch.record, workflow_id=workflow_id)
            return answers

    def _apply(self, record: Record) -> bool:
        batch = self._batches.get(record.key.batch_id)
        row = batch.rows.get(record.key.position) if batch else None
        if batch is None or row is None:
            return False
        if isinstance(record, Intend):
            return _intend(batch, row, record)
        attempt = batch.attempts.get((record.key.position, record.key.number))
        return attempt is not None and _end_or_go_on(attempt, row, record)

    def _rows(self, batch_id: str, *states: RowState) -> list[_Row]:
        batch = self._batches.get(batch_id)
        return [row for row in batch.in_order() if not states or row.state in states] if batch else []

    def _attempts(self, batch_id: str) -> list[_Attempt]:
        batch = self._batches.get(batch_id)
        return list(batch.attempts.values()) if batch else []

    def startable(self, batch_id: str, now: float, after: int, limit: int, until: int | None) -> list[RowJob]:
        with self._lock:
            due = [row for row in self._rows(batch_id, RowState.WAITING) if _is_due(row.due_at, now)]
            due.sort(key=lambda row: (row.due_at or 0.0, row.new.position))
            pending = [row for row in self._rows(batch_id, RowState.PENDING) if row.new.position > after]
            pending = [row for row in pending if row.leader is None and row.origin is None]
            jobs = [row.job() for row in due + pending]
            return [job for job in jobs if until is None or job.position < until][:limit]

    def next_due(self, batch_id: str, until: int | None = None) -> float | None:
        with self._lock:
            waiting = self._rows(batch_id, RowState.WAITING)
            waiting = [row for row in waiting if until is None or row.new.position < until]
            return min((row.due_at for row in waiting if row.due_at is not None), default=None)

    def open_attempts(self, batch_id: str) -> list[OpenAttempt]:
        with self._lock:
            is_open = OPEN_ATTEMPTS - {AttemptState.INDETERMINATE}
            found = [attempt for attempt in self._attempts(batch_id) if attempt.state in is_open]
            found.sort(key=lambda attempt: (attempt.sent_at, attempt.key.position, attempt.key.number))
            return [self._open(attempt) for attempt in found]

    def _open(self, attempt: _Attempt) -> OpenAttempt:
        return OpenAttempt(
            key=attempt.key,
            state=attempt.state,
            user=attempt.user,
            slot=attempt.slot,
            sent_at=attempt.sent_at,
            job=self._batches[attempt.key.batch_id].rows[attempt.key.position].job(),
            run_id=attempt.run_id,
            task_id=attempt.task_id,
            ahead=attempt.ahead,
            cause=attempt.cause,
        )

    def busy_slots(self, batch_id: str) -> set[int]:
        with self._lock:
            return {attempt.slot for attempt in self._attempts(batch_id) if attempt.state in OPEN_ATTEMPTS}

    def known_runs(self, batch_id: str, user: str) -> set[str]:
        with self._lock:
            return {a.run_id for a in self._attempts(batch_id) if a.user == user and a.run_id}

    def counts(self, batch_id: str) -> Counts:
        with self._lock:
            rows = self._rows(batch_id)
            return Counts(dict(Counter(row.state for row in rows)), sum(row.tokens or 0 for row in rows))

    def causes(self, batch_id: str) -> list[tuple[str, RowState, int]]:
        with self._lock:
            found = Counter((row.cause, row.state) for row in self._rows(batch_id) if row.cause is not None)
        ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        return [(cause, state, number) for (cause, state), number in ordered]

    def versions(self, batch_id: str) -> list[tuple[str, int]]:
        with self._lock:
            told = [attempt for attempt in self._attempts(batch_id) if attempt.workflow_id is not None]
        last = {a.key.position: a.workflow_id for a in sorted(told, key=lambda a: a.key.number)}
        return sorted(Counter(v for v in last.values() if v).items(), key=lambda item: (-item[1], item[0]))

    def retry(self, batch_id: str, cause: str | None) -> int:
        sources, target = ROW_MOVES[RowMove.RETRY]
        with self._lock:
            if cause is None:
                found = self._rows(batch_id, *sources - {RowState.UNKNOWN})
            else:
                found = [row for row in self._rows(batch_id, *sources) if row.cause == cause]
            for row in found:
                row.state = target
                row.clear()
            return len(found)

    def results(self, batch_id: str) -> Iterator[RowResult]:
        with self.snapshot(batch_id) as rows:
            yield from rows

    @contextmanager
    def snapshot(self, batch_id: str) -> Iterator[Iterable[RowResult]]:
        with self._lock:
            rows = [row.result() for row in self._rows(batch_id)]
        yield rows

    def close(self) -> None:
        """Nothing to let go of."""


def _is_due(due_at: float | None, now: float) -> bool:
    return due_at is not None and (due_at <= now or due_at > now + FAR_AHEAD)


def _intend(batch: _Batch, row: _Row, record: Intend) -> bool:
    sources, target = ROW_MOVES[RowMove.START]
    if row.leader is not None or row.origin is not None:
        return False
    if row.state not in sources or row.tries != record.key.number - 1:
        return False
    row.clear()
    row.run_id = row.workflow_id = None
    row.state, row.tries = target, record.key.number
    place = (record.key.position, record.key.number)
    batch.attempts[place] = _Attempt(record.key, record.slot, record.user, record.sent_at)
    return True


def _end_or_go_on(attempt: _Attempt, row: _Row, record: Attach | Lose | Finish | Refuse | GiveUp) -> bool:
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
    attempt: _Attempt, row: _Row, record: Attach | Lose | Finish | Refuse | GiveUp
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


def _note(attempt: _Attempt, record: Attach | Lose | Finish | Refuse | GiveUp) -> None:
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
        case _:
            attempt.cause = record.cause


def _newer(new: str | None, known: str | None) -> str | None:
    return known if new is None else new


def _change_row(
    row: _Row, attempt: _Attempt, record: Attach | Lose | Finish | Refuse | GiveUp, target: RowState
) -> None:
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


def _keep_outcome(row: _Row, attempt: _Attempt, record: Finish) -> None:
    outcome = record.outcome
    row.outputs, row.error, row.cause = outcome.outputs, outcome.error, record.cause
    row.tokens = bounded_tokens(outcome.tokens)
    row.seconds = outcome.seconds if record.seconds is None else record.seconds
    row.price, row.currency, row.due_at = outcome.price, outcome.currency, record.due_at
    row.run_id, row.workflow_id = attempt.run_id, attempt.workflow_id
