"""The store in memory: the plain model that the one in a database is compared with, and enough for a dry run."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from rowmill.domain.again import input_hash
from rowmill.domain.batch import (
    HIDDEN,
    IDLE,
    OPEN_ATTEMPTS,
    RETRIED_BY_CAUSE_ONLY,
    ROW_MOVES,
    UNFINISHED,
    AttemptState,
    BatchMove,
    BatchState,
    RowMove,
    RowState,
    Spent,
    closing_moves,
)
from rowmill.domain.causes import Cause
from rowmill.domain.errors import FencedError, IllegalMoveError, StoreError
from rowmill.domain.money import sum_prices, total
from rowmill.domain.progress import Counts
from rowmill.ports.store import (
    Again,
    AppRecord,
    AttemptKey,
    BatchRecord,
    BatchSummary,
    Break,
    Intend,
    NewRow,
    OpenAttempt,
    Record,
    RowJob,
    RowResult,
    Wish,
)
from rowmill.store.bounds import FAR_AHEAD, bounded_tokens
from rowmill.store.memory_files import MemoryFiles
from rowmill.store.memory_reuse import ReuseMemory
from rowmill.store.memory_rows import (
    MemoryAttempt,
    MemoryBatch,
    MemoryRow,
    break_off,
    end_or_go_on,
    intend,
    last_attempt,
)
from rowmill.store.memory_sharing import SharingMemory
from rowmill.store.moves import first_versions, moved

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from rowmill.domain.batch import Settings
    from rowmill.ports.store import OutputFile, UploadRecord
    from rowmill.ports.store_again import AppendedSheet


class MemoryStore(MemoryFiles, SharingMemory, ReuseMemory):
    """See rowmill.ports.store; survives nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._fence = 0
        self._apps: dict[str, AppRecord] = {}
        self._batches: dict[str, MemoryBatch] = {}

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
            self._batches[batch.id] = MemoryBatch(batch)

    def add_rows(self, batch_id: str, rows: Sequence[NewRow]) -> None:
        with self._lock:
            batch = self._draft(batch_id, "add_rows")
            new = {row.position: MemoryRow(row, RowState.SKIPPED if row.blank else RowState.PENDING) for row in rows}
            if len(new) < len(rows) or new.keys() & batch.rows.keys():
                raise StoreError("store_conflict", path="memory", detail="a position stands twice")
            batch.rows |= new

    def drop_batch(self, batch_id: str) -> None:
        with self._lock:
            self._draft(batch_id, "drop")
            self._drop(batch_id)

    def append_rows(self, batch_id: str, draft_id: str, sheet: AppendedSheet) -> BatchState:
        with self._lock:
            draft, batch = self._draft(draft_id, "append"), self._known(batch_id)
            record = moved(batch.record, BatchMove.APPEND, None, None, 0.0)
            first = max(batch.rows, default=-1) + 1
            added = [MemoryRow(replace(r.new, position=r.new.position + first), r.state) for r in draft.in_order()]
            batch.rows |= {row.new.position: row for row in added}
            known = replace(sheet, first=first, rows=len(added))
            batch.record = replace(record, appended=(*record.appended, known))
            self._add_files(batch_id, self._needed.get(draft_id, ()))
            self._drop(draft_id)
            if record.settings.share_duplicates:
                self.follow(batch_id, first)
            return record.state

    def sweep_drafts(self, older_than: float) -> int:
        with self._lock:
            drafts = self._records(lambda batch: batch.state is BatchState.DRAFT and batch.created_at < older_than)
            for draft in drafts:
                self._drop(draft.id)
            return len(drafts)

    def _drop(self, batch_id: str) -> None:
        del self._batches[batch_id]
        self._forget_files(batch_id)

    def _draft(self, batch_id: str, move: str) -> MemoryBatch:
        batch = self._known(batch_id)
        if batch.record.state is not BatchState.DRAFT:
            raise IllegalMoveError("illegal_move", thing="batch", state=batch.record.state.value, move=move)
        return batch

    def _known(self, batch_id: str) -> MemoryBatch:
        batch = self._batches.get(batch_id)
        if batch is None:
            raise StoreError("store_no_batch", batch=batch_id)
        return batch

    def batch(self, batch_id: str) -> BatchRecord | None:
        with self._lock:
            batch = self._batches.get(batch_id)
            return None if batch is None else replace(batch.record, app=self._apps[batch.record.app.id])

    def batches(self) -> list[BatchSummary]:
        return self._summaries(lambda batch: batch.state not in HIDDEN)

    def find_batch_ids(self, prefix: str) -> list[str]:
        with self._lock:
            return [
                batch.id
                for batch in self._records(lambda batch: batch.state not in HIDDEN)
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
            before = batch.record.state
            batch.record = moved(batch.record, move, reason, detail, at)
            if move is BatchMove.START and before in IDLE:
                batch.spent_before = self._all_spent(batch)
            return batch.record.state

    def wishes(self, batch_ids: Sequence[str]) -> dict[str, Wish]:
        with self._lock:
            known = [self._batches[batch_id] for batch_id in batch_ids if batch_id in self._batches]
            return {b.record.id: Wish(b.record.state, b.record.reason, b.touched) for b in known}

    def close_batch(
        self,
        batch_id: str,
        *,
        wants_to_end: bool,
        reason: str,
        detail: str | None = None,
        at: float = 0.0,
        fence: int | None = None,
    ) -> BatchState | None:
        with self._lock:
            if fence not in (None, self._fence):
                raise FencedError("fenced", fence=fence, newest=self._fence)
            left = self.counts(batch_id).open
            state = None
            for move in closing_moves(self._known(batch_id).record.state, left, wants_to_end=wants_to_end):
                known = {"reason": reason, "detail": detail} if move is BatchMove.PAUSE else {}
                state = self.move_batch(batch_id, move, at=at, **known)
            return state

    def spent(self, batch_id: str, *, with_price: bool = False) -> Spent:
        with self._lock:
            batch = self._known(batch_id)
            whole, before = self._all_spent(batch), batch.spent_before
        price = max(Decimal(0), total((whole.price, -before.price))) if with_price else Decimal(0)
        return Spent(max(0, whole.rows - before.rows), max(0, whole.tokens - before.tokens), price)

    def _all_spent(self, batch: MemoryBatch) -> Spent:
        outcomes = [attempt.outcome for attempt in batch.attempts.values() if attempt.outcome is not None]
        tokens = sum(bounded_tokens(outcome.tokens) or 0 for outcome in outcomes)
        price, counts = total(self.prices(batch.record.id).values()), self.counts(batch.record.id)
        free = sum(row.is_taken for row in batch.rows.values())
        return Spent(counts.done + counts.asking - free, tokens, price)

    def row(self, batch_id: str, position: int) -> RowResult | None:
        return next((row for row in self.results(batch_id) if row.position == position), None)

    def positions_of(self, batch_id: str, numbers: Sequence[int]) -> list[int]:
        wanted = set(numbers)
        with self._lock:
            return [row.new.position for row in self._rows(batch_id) if row.new.number in wanted]

    def delete_batch(self, batch_id: str) -> None:
        self.move_batch(batch_id, BatchMove.DELETE)

    def purge(self, limit: int = 5000) -> int:
        with self._lock:
            for batch in [b for b in self._batches.values() if b.record.state is BatchState.DELETED]:
                gone = list(batch.rows)[:limit]
                if gone:
                    batch.rows = {p: row for p, row in batch.rows.items() if p not in set(gone)}
                    return len(gone)
                del self._batches[batch.record.id]
            return 0

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
            return intend(batch, row, record)
        if isinstance(record, Break):
            return break_off(batch, row, record)
        attempt = batch.attempts.get((record.key.position, record.key.number))
        return attempt is not None and end_or_go_on(attempt, row, record)

    def _rows(self, batch_id: str, *states: RowState) -> list[MemoryRow]:
        batch = self._batches.get(batch_id)
        return [row for row in batch.in_order() if not states or row.state in states] if batch else []

    def _attempts(self, batch_id: str) -> list[MemoryAttempt]:
        batch = self._batches.get(batch_id)
        return list(batch.attempts.values()) if batch else []

    def startable(self, batch_id: str, now: float, after: int, limit: int, until: int | None) -> list[RowJob]:
        with self._lock:
            due = [row for row in self._rows(batch_id, RowState.WAITING) if _is_due(row.due_at, now)]
            due.sort(key=lambda row: (row.due_at or 0.0, row.new.position))
            pending = [row for row in self._rows(batch_id, RowState.PENDING) if row.new.position > after]
            pending = [row for row in pending if row.leader is None and row.origin is None]
            found = [row for row in due + pending if until is None or row.new.position < until]
            return [self._batches[batch_id].job(row) for row in found[:limit]]

    def next_turns(self, batch_id: str, turns: Sequence[tuple[str, int]], until: int | None) -> list[RowJob]:
        with self._lock:
            batch = self._batches[batch_id]
            behind = [[t for t in batch.turns(name) if t.new.position > position] for name, position in turns]
            found = [later[0] for later in behind if later and later[0].state is RowState.PENDING]
            return [batch.job(row) for row in found if until is None or row.new.position < until]

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

    def _open(self, attempt: MemoryAttempt) -> OpenAttempt:
        row = self._batches[attempt.key.batch_id].rows[attempt.key.position]
        return OpenAttempt(
            key=attempt.key,
            state=attempt.state,
            user=attempt.user,
            slot=attempt.slot,
            sent_at=attempt.sent_at,
            job=self._batches[attempt.key.batch_id].job(row),
            run_id=attempt.run_id,
            task_id=attempt.task_id,
            ahead=attempt.ahead,
            cause=attempt.cause,
            message_id=attempt.message_id,
            conversation_id=attempt.conversation_id,
        )

    def busy_slots(self, batch_id: str) -> set[int]:
        with self._lock:
            return {attempt.slot for attempt in self._attempts(batch_id) if attempt.state in OPEN_ATTEMPTS}

    def known_runs(self, batch_id: str, user: str) -> set[str]:
        with self._lock:
            return {a.run_id for a in self._attempts(batch_id) if a.user == user and a.run_id}

    def known_talk(self, batch_id: str, user: str, ids: Sequence[str]) -> set[str]:
        with self._lock:
            mine = [attempt for attempt in self._attempts(batch_id) if attempt.user == user]
        known = {attempt.conversation_id for attempt in mine} | {attempt.message_id for attempt in mine}
        return set(ids) & known

    def unsettled(self, batch_id: str, user: str) -> int:
        with self._lock:
            mine = [attempt for attempt in self._attempts(batch_id) if attempt.user == user]
        return sum(attempt.state in OPEN_ATTEMPTS and attempt.message_id is None for attempt in mine)

    def to_check(self, batch_id: str, after: int, limit: int) -> list[OpenAttempt]:
        with self._lock:
            rows = [row for row in self._rows(batch_id) if row.new.position > after]
            latest = [self._batches[batch_id].attempts.get((row.new.position, row.tries)) for row in rows]
            wanted = (AttemptState.PAUSED, AttemptState.INDETERMINATE)
            return [self._open(one) for one in latest if one is not None and one.state in wanted][:limit]

    def asking(self, batch_id: str, limit: int) -> list[RowResult]:
        with self._lock:
            return [row.result() for row in self._rows(batch_id) if row.is_asking and row.leader is None][:limit]

    def counts(self, batch_id: str) -> Counts:
        with self._lock:
            rows = self._rows(batch_id)
            by_state, tokens = dict(Counter(row.state for row in rows)), sum(row.tokens or 0 for row in rows)
            return Counts(by_state, tokens, sum(row.is_asking for row in rows))

    def prices(self, batch_id: str) -> dict[str, Decimal]:
        with self._lock:
            ended = [attempt.outcome for attempt in self._attempts(batch_id) if attempt.outcome is not None]
        return sum_prices((outcome.price, outcome.currency) for outcome in ended)

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

    def retry(self, batch_id: str, again: Again, at: float = 0.0) -> int:
        with self._lock:
            found = self._meant(batch_id, again)
            if not found:
                return 0
            self.move_batch(batch_id, BatchMove.RETRY, at=at)
            for row in found if again.inputs is not None else ():
                self.set_apart(batch_id, row)
            for row in found:
                if again.inputs is not None:
                    row.new = replace(row.new, inputs=again.inputs, input_hash=input_hash(again.inputs))
                    row.origin = None
                row.put_back()
            left_behind = self._left_behind(batch_id)
            for row in left_behind:
                row.put_back()
            self._batches[batch_id].touched += 1
            return len(found) + len(left_behind)

    def _meant(self, batch_id: str, again: Again) -> list[MemoryRow]:
        rows = [row for row in self._rows(batch_id, *ROW_MOVES[RowMove.RETRY][0]) if not row.goes_by_itself]
        if again.positions is None:
            return [row for row in rows if _is_meant(row, again.cause)]
        named = [row for row in self._rows(batch_id) if row.new.position in again.positions]
        together = [row.leads.new.position for row in named] if again.inputs is None else []
        return [row for row in rows if row.new.position in again.positions or row.leads.new.position in together]

    def _left_behind(self, batch_id: str) -> list[MemoryRow]:
        broken = [r for r in self._rows(batch_id, RowState.FAILED) if r.cause == Cause.CONVERSATION_BROKEN.value]
        again = {r.new.conversation: r.new.position for r in reversed(self._rows(batch_id, RowState.PENDING))}
        return [r for r in broken if again.get(r.new.conversation, r.new.position) < r.new.position]

    def results(self, batch_id: str) -> Iterator[RowResult]:
        with self.snapshot(batch_id) as rows:
            yield from rows

    @contextmanager
    def snapshot(self, batch_id: str) -> Iterator[Iterable[RowResult]]:
        with self._lock:
            rows = [row.result(self.output_files(last_attempt(batch_id, row.leads))) for row in self._rows(batch_id)]
        yield rows

    def add_files(self, batch_id: str, files: Collection[str]) -> None:
        with self._lock:
            self._draft(batch_id, "add_files")
            self._add_files(batch_id, files)

    def save_upload(self, upload: UploadRecord) -> None:
        with self._lock:
            self._save_upload(upload, self._apps)

    def save_output_file(self, key: AttemptKey, file: OutputFile) -> None:
        with self._lock:
            batch = self._batches.get(key.batch_id)
            if batch is not None and key.position in batch.rows:
                self._save_output_file(key, file)

    def fresh_outputs(self, batch_id: str, since: float) -> list[tuple[AttemptKey, str]]:
        with self._lock:
            last = {attempt.key: attempt for attempt in self._attempts(batch_id)}
            found = [(last_attempt(batch_id, row), row.outputs) for row in self._rows(batch_id)]
            return [
                (key, outputs)
                for key, outputs in found
                if key in last
                and (last[key].ended_at or 0.0) >= since
                and "__dify__file__" in (outputs or "")
                and outputs
            ]

    def count_output_files(self, batch_id: str) -> tuple[int, int]:
        with self._lock:
            files = [file for row in self._rows(batch_id) for file in self.output_files(last_attempt(batch_id, row))]
            kept = sum(file.sha256 is not None for file in files)
            return kept, len(files) - kept

    def close(self) -> None:
        """Nothing to let go of."""


def _is_meant(row: MemoryRow, cause: str | None) -> bool:
    return row.state not in RETRIED_BY_CAUSE_ONLY if cause is None else row.cause == cause


def _is_due(due_at: float | None, now: float) -> bool:
    return due_at is not None and (due_at <= now or due_at > now + FAR_AHEAD)
