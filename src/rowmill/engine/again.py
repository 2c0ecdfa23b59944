"""What one run of a batch has to do with rows, batches and versions that came before: three small parts, one handle."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from rowmill.domain.errors import StoreError
from rowmill.domain.events import Event, Fact
from rowmill.engine.sharing import Sharing
from rowmill.engine.versions import Versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.engine.intake import Intake
    from rowmill.ports.clock import Clock
    from rowmill.ports.store import BatchRecord, Store

# More than any batch has: the store frees some thousands at one time.
_ALL = 10**9


class Again:
    """`begin` before the first row, `finish` after the last commit."""

    def __init__(
        self, batch: BatchRecord, store: Store, clock: Clock, intake: Intake, tell: Callable[[Event], None]
    ) -> None:
        self._reusing = Reusing(batch, store, intake, tell)
        self._sharing = Sharing(batch, store, clock)
        self.versions = Versions(batch, store, tell, self._reusing.learn)

    async def begin(self) -> None:
        self._sharing.begin()
        await self.versions.remember()
        await self._reusing.begin(self.versions.batch_version)

    async def finish(self) -> None:
        await self._reusing.finish()
        await self._sharing.finish()


class Reusing:
    """Rows that are held take the result of an earlier batch as soon as a run tells that the app is still the same, and
    are freed if it is another. What the database refuses to do now, the next start does."""

    def __init__(self, batch: BatchRecord, store: Store, intake: Intake, tell: Callable[[Event], None]) -> None:
        self._batch = batch
        self._store = store
        self._intake = intake
        self._tell = tell
        self._held = False
        self._task: asyncio.Task[None] | None = None

    async def begin(self, known: str | None) -> None:
        """`known`: the batch's version, if a former start has learnt it."""
        if self._batch.settings.since is None:
            return
        held, _ = await asyncio.to_thread(self._store.reuse, self._batch.id)
        self._held = held > 0
        if known is not None:
            self.learn(known)

    def learn(self, workflow_id: str) -> None:
        """What a run told. The batch is not at its end before this is settled: rows may come free."""
        if self._held:
            self._held = False
            self._intake.taken()
            self._task = asyncio.create_task(self._settle(workflow_id), name="reusing")

    async def finish(self) -> None:
        if self._task is not None:
            await self._task

    async def _settle(self, workflow_id: str) -> None:
        try:
            with suppress(StoreError):
                taken, freed = await asyncio.to_thread(self._take_or_free, workflow_id)
                since = self._batch.settings.since
                if taken:
                    self._tell(Event(Fact.REUSED, {"rows": taken, "batch": since}))
                if freed:
                    self._tell(Event(Fact.NOT_REUSED, {"rows": freed, "batch": since}))
        finally:
            self._intake.renew()
            self._intake.settled()

    def _take_or_free(self, workflow_id: str) -> tuple[int, int]:
        taken = freed = 0
        while now := self._store.take_results(self._batch.id, str(self._batch.settings.since), workflow_id):
            taken += now
        while now := self._store.free_held(self._batch.id, _ALL):
            freed += now
        if freed and self._batch.settings.share_duplicates:
            # One of them that is about to start cannot any more, if it follows another from now on.
            self._store.find_leaders(self._batch.id)
        return taken, freed
