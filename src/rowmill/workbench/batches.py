"""Running batches: at once, again, and after whatever ended the last process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from rowmill.domain.batch import BatchMove, BatchState, RowState
from rowmill.domain.errors import UsageError
from rowmill.engine.runner import Ending
from rowmill.workbench.again import settle_the_rest
from rowmill.workbench.apps import app_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.domain.batch import Settings
    from rowmill.domain.events import Event
    from rowmill.domain.progress import Counts
    from rowmill.engine.batches import Engine
    from rowmill.ports.dify import AppInfo
    from rowmill.ports.store import BatchRecord, BatchSummary
    from rowmill.workbench.apps import Apps
    from rowmill.workbench.tools import Tools


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
            raise UsageError("batch_ambiguous", batch=batch_id, found=", ".join(ids[:10]))
        batch = self._tools.store.batch(batch_id if batch_id in ids else ids[0]) if ids else None
        if batch is None:
            raise UsageError("batch_unknown", batch=batch_id)
        return batch

    def unfinished(self, app_id: str, sheet_digest: str, sheet_name: str) -> list[BatchSummary]:
        """Batches of the same sheet on the same app that have not come to their end."""
        return self._tools.store.unfinished(app_id, sheet_digest, sheet_name)

    def counts(self, batch_id: str) -> Counts:
        return self._tools.store.counts(batch_id)

    def causes(self, batch_id: str) -> list[tuple[str, RowState, int]]:
        """(cause, state, rows), most first."""
        return self._tools.store.causes(batch_id)

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

    def retry(self, batch: BatchRecord, cause: str | None) -> int:
        """Put failed and stopped rows (with a cause: those, and the unknown ones among them) back to be run again.
        Succeeded rows are never run again. Returns how many."""
        # The batch first: rows that wait in a batch that is over would never be picked up.
        self._tools.store.move_batch(batch.id, BatchMove.RETRY, at=self._tools.clock.wall())
        return self._tools.store.retry(batch.id, cause)

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
            state, ending = await engine.run(batch, app, recovery, tell, until=until)
            while until is None and ending == Ending() and await settle_the_rest(self._tools.store, batch):
                state, ending = await engine.run(batch, app, recovery, tell)
            return state, ending
        finally:
            await app.close()

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
