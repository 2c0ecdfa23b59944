"""Running batches: at once, again, and after whatever ended the last process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rowmill.domain.batch import (
    RETRIED_BY_CAUSE_ONLY,
    ROW_MOVES,
    UNFINISHED,
    BatchMove,
    BatchState,
    RowMove,
    RowState,
)
from rowmill.domain.causes import Cause
from rowmill.domain.errors import IllegalMoveError, MappingError, UsageError
from rowmill.domain.form import CONVERSATION
from rowmill.domain.mapping import find_field
from rowmill.domain.problem import Severity
from rowmill.domain.values import read_cell
from rowmill.engine.check import Check
from rowmill.engine.runner import HELD
from rowmill.workbench.apps import app_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from rowmill.domain.batch import Settings
    from rowmill.domain.events import Event
    from rowmill.domain.progress import Counts
    from rowmill.engine.batches import Engine
    from rowmill.engine.check import Checked
    from rowmill.engine.runner import Ending
    from rowmill.ports.dify import AppInfo
    from rowmill.ports.store import Again, AppRecord, BatchRecord, BatchSummary, RowResult
    from rowmill.workbench.apps import Apps
    from rowmill.workbench.tools import Tools


# Somebody wished it: the reason of a pause or a stop.
ASKED = "asked"


def _same_app(batch: BatchRecord, info: AppInfo) -> bool:
    """Whether another key can be a new key of the batch's own app: Dify shows no id to tell by."""
    return info.mode is batch.app.mode and info.name == batch.app.name and info.form.digest == batch.form.digest


class Batches:
    def __init__(self, tools: Tools, apps: Apps) -> None:
        self._tools = tools
        self._apps = apps

    def all(self) -> list[BatchSummary]:
        """Newest first."""
        return self._tools.store.batches()

    def find(self, batch_id: str) -> BatchRecord:
        """A batch by its id or the first letters of it. Raises UsageError."""
        ids = self._tools.store.find_batch_ids(batch_id)
        if len(ids) > 1 and batch_id not in ids:
            raise UsageError("batch_ambiguous", batch=batch_id, found=tuple(ids[:10]))
        batch = self._tools.store.batch(batch_id if batch_id in ids else ids[0]) if ids else None
        if batch is None:
            raise UsageError("batch_unknown", batch=batch_id)
        return batch

    def unfinished(self, app_id: str, sheet_digest: str, sheet_name: str) -> list[BatchSummary]:
        """Batches of the same sheet on the same app that have not come to their end."""
        return self._tools.store.unfinished(app_id, sheet_digest, sheet_name)

    def finished(self, app: AppRecord, sheet_digest: str, sheet_name: str) -> BatchSummary | None:
        """The newest batch that has run the same sheet on the same app to its end."""
        for summary in self.all():
            if summary.state in UNFINISHED or summary.base_url != app.base_url:
                continue
            batch = self._tools.store.batch(summary.id)
            if batch is None or batch.app.id != app.id or not summary.counts.done:
                continue
            if (batch.sheet_digest, batch.sheet_name) == (sheet_digest, sheet_name):
                return summary
        return None

    def retryable(self, batch_id: str, again: Again) -> int:
        """How many rows `retry` would put back, at most."""
        sources = ROW_MOVES[RowMove.RETRY][0]
        if again.positions is not None:
            return len(again.positions)
        if again.cause is None:
            return self.counts(batch_id).of(*(sources - RETRIED_BY_CAUSE_ONLY))
        if again.cause != Cause.NEEDS_PERSON:
            sources = sources - {RowState.WAITING}  # such a row goes again by itself
        return sum(rows for name, state, rows in self.causes(batch_id) if name == again.cause and state in sources)

    def counts(self, batch_id: str) -> Counts:
        return self._tools.store.counts(batch_id)

    def prices(self, batch_id: str) -> dict[str, Decimal]:
        """What the batch cost so far, by currency; see Store.prices."""
        return self._tools.store.prices(batch_id)

    def asking(self, batch_id: str, limit: int) -> list[RowResult]:
        """Rows that wait for a person, in order."""
        return self._tools.store.asking(batch_id, limit)

    def causes(self, batch_id: str) -> list[tuple[str, RowState, int]]:
        """(cause, state, rows), most first."""
        return self._tools.store.causes(batch_id)

    def output_files(self, batch_id: str) -> tuple[int, int]:
        """How many files that runs have put out are kept, and how many could not be fetched."""
        return self._tools.store.count_output_files(batch_id)

    def reuse(self, batch_id: str) -> tuple[int, int]:
        """How many rows wait to take, and how many took, the result of an earlier batch."""
        return self._tools.store.reuse(batch_id)

    def followers(self, batch_id: str) -> int:
        """How many rows take the result of another."""
        return self._tools.store.followers(batch_id)

    def versions(self, batch_id: str) -> list[tuple[str, int]]:
        """(workflow id, rows), most first."""
        return self._tools.store.versions(batch_id)

    def change(self, batch: BatchRecord, settings: Settings) -> BatchRecord:
        """Run the batch otherwise from now on."""
        self._tools.store.change_settings(batch.id, settings)
        return replace(batch, settings=settings)

    def sample_end(self, batch_id: str, rows: int) -> int:
        """The position behind the next `rows` rows that were never tried."""
        store = self._tools.store
        waiting = store.counts(batch_id).of(RowState.WAITING)
        jobs = store.startable(batch_id, self._tools.clock.wall(), -1, rows + waiting, None)
        fresh = sorted(job.position for job in jobs if job.tries == 0)[:rows]
        return max(fresh, default=-1) + 1

    def retry(self, batch: BatchRecord, again: Again) -> int:
        """Put rows back to be run again, in a batch that runs too; returns how many. Succeeded rows are never run
        again."""
        return self._tools.store.retry(batch.id, again, self._tools.clock.wall())

    def positions_of(self, batch: BatchRecord, numbers: Sequence[int]) -> tuple[int, ...]:
        """Where the rows with these numbers stand. Raises UsageError for one that is not there."""
        found = self._tools.store.positions_of(batch.id, numbers)
        there = len(found)
        if batch.appended:  # sheets number their rows anew
            rows = [self._tools.store.row(batch.id, position) for position in found]
            there = len({row.number for row in rows if row is not None})
        if there < len(set(numbers)):
            raise UsageError("rows_unknown", batch=batch.id, rows=", ".join(map(str, numbers[:10])))
        return tuple(found)

    def edited_inputs(self, batch: BatchRecord, position: int, changes: dict[str, str]) -> dict[str, Any]:
        """The inputs of a row with some fields changed: read and checked as a cell would be. Raises UsageError."""
        job = self._tools.store.row(batch.id, position)
        assert job is not None
        inputs = dict(job.inputs)
        for name, text in changes.items():
            field = find_field(batch.form, name)
            # Which conversation a row is a turn of stands with the batch: the order of its turns follows from it.
            if field is None or field.variable == CONVERSATION:
                fields = ", ".join(one.variable for one in batch.form.fields if one.variable != CONVERSATION)
                raise MappingError("field_unknown", field=name, fields=fields)
            reading = read_cell(field, text, self._tools.schema_check)
            wrong = [finding for finding in reading.findings if finding.severity is Severity.ERROR]
            if wrong:
                raise UsageError("value_refused", field=name, problem=wrong[0].code, **wrong[0].params)
            inputs.pop(field.variable, None)
            if not reading.absent:
                inputs[field.variable] = reading.value
        return inputs

    def pause(self, batch: BatchRecord, *, hold: bool = False) -> BatchState:
        """No new rows. What is in flight is waited for, or (hold) left to Dify and looked up when the batch goes on.
        Takes effect within a second in whatever process runs the batch."""
        reason = HELD if hold else ASKED
        return self._move(batch, BatchMove.PAUSE, reason)

    def stop(self, batch: BatchRecord) -> BatchState:
        """No new rows, and Dify is asked to stop those in flight. What has finished is kept."""
        return self._move(batch, BatchMove.STOP, ASKED)

    def _move(self, batch: BatchRecord, move: BatchMove, reason: str | None) -> BatchState:
        try:
            return self._tools.store.move_batch(batch.id, move, reason=reason, at=self._tools.clock.wall())
        except IllegalMoveError as error:
            raise UsageError("batch_over", batch=batch.id, state=str(error.params["state"])) from None

    def lay_down(self, batch: BatchRecord) -> BatchState | None:
        """Where nobody runs the batch any more, although its state says so."""
        self._share(batch)
        at = self._tools.clock.wall()
        return self._tools.store.close_batch(batch.id, wants_to_end=True, reason=ASKED, at=at)

    def _share(self, batch: BatchRecord) -> None:
        while batch.settings.share_duplicates and self._tools.store.share_results(batch.id):
            pass

    def delete(self, batch: BatchRecord, step: Callable[[int], None] = lambda _: None) -> None:
        """Forget a batch and all its rows, for good. Refused while it runs. `step` gets how many rows are gone."""
        try:
            self._tools.store.delete_batch(batch.id)
        except IllegalMoveError as error:
            raise UsageError("batch_busy", batch=batch.id, state=str(error.params["state"])) from None
        gone = 0
        while count := self._tools.store.purge():
            gone += count
            step(gone)

    async def run(
        self,
        engine: Engine,
        batch: BatchRecord,
        tell: Callable[[Event], None],
        *,
        api_key: str | None = None,
        until: int | None = None,
    ) -> tuple[BatchState, Ending]:
        """Run a batch to its end or its pause; the key is the sealed one unless another is given."""
        key = api_key or self._apps.key_of(batch.app)
        app = self._tools.connect(batch.app.base_url, key, batch.app.mode, batch.settings.row_timeout)
        recovery = self._tools.recovery(batch.app.version, batch.app.mode)
        try:
            return await engine.run(batch, app, recovery, tell, until=until)
        finally:
            await app.close()

    async def check(self, engine: Engine, batch: BatchRecord, *, api_key: str | None = None) -> Checked:
        """Look once more at rows that are unknown or wait for a person; settle those that have ended. Costs nothing."""
        key = api_key or self._apps.key_of(batch.app)
        app = self._tools.connect(batch.app.base_url, key, batch.app.mode, batch.settings.row_timeout)
        recovery = self._tools.recovery(batch.app.version, batch.app.mode)
        try:
            looking = Check(engine.store, engine.fence, engine.clock, app, recovery, engine.shelf)
            checked = await looking.run(batch.id)
        finally:
            await app.close()
        await asyncio.to_thread(self._share, batch)
        return checked

    async def refresh(self, batch: BatchRecord, api_key: str | None) -> BatchRecord:
        """Look at the app before going on with its batch: is it there, is the key good, has the server's version
        changed. Raises AppError."""
        key = api_key or self._apps.key_of(batch.app)
        info = await self._apps.probe(batch.app.base_url, key)
        if app_id(batch.app.base_url, key) != batch.app.id and not _same_app(batch, info):
            raise UsageError("resume_other_app", batch=batch.id, app=batch.app.name, found=info.name)
        app = replace(batch.app, version=info.version)
        await asyncio.to_thread(self._tools.store.save_app, app)
        return replace(batch, app=app)
