"""What one run of a batch has to do with rows, batches and versions that came before: three small parts, one handle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rowmill.domain.batch import RowState
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
    """`begin` before the first row; `settle` when nothing is under way any more, as often as that is so; `close` at the
    end."""

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

    async def settle(self, *, to_the_end: bool) -> None:
        """What rows take from others, by what is known now. `to_the_end`: every row that could start has had its turn,
        so that those which are still held have nothing more to wait for."""
        await self._reusing.settle(to_the_end=to_the_end)
        await self._sharing.settle()

    def abandon(self) -> None:
        """Leave at once; the next start does what is left."""
        self._sharing.abandon()

    async def close(self) -> None:
        await self._reusing.finish()
        await self._sharing.finish()


class Reusing:
    """Rows that are held take the result of an earlier batch as soon as a run tells that the app is still the same, and
    are freed if it is another. What the database refuses to do now, it is asked again for at the end."""

    def __init__(self, batch: BatchRecord, store: Store, intake: Intake, tell: Callable[[Event], None]) -> None:
        self._batch = batch
        self._store = store
        self._intake = intake
        self._tell = tell
        self._held = False
        self._told: str | None = None
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
        self._told = workflow_id
        if self._held:
            self._held = False
            self._intake.taken()
            self._task = asyncio.create_task(self._settle(workflow_id), name="reusing")

    async def settle(self, *, to_the_end: bool) -> None:
        await self.finish()
        if self._held and self._told is not None:
            self.learn(self._told)  # the database had refused
            await self.finish()
        if to_the_end:
            # Of rows that are held still one was freed, if they were not all taken: it tells its version.
            self._held = await settle_the_rest(self._store, self._batch)

    async def finish(self) -> None:
        if self._task is not None:
            await self._task

    async def _settle(self, workflow_id: str) -> None:
        try:
            taken, freed = await asyncio.to_thread(self._take_or_free, workflow_id)
            since = self._batch.settings.since
            if taken:
                self._tell(Event(Fact.REUSED, {"rows": taken, "batch": since}))
            if freed:
                self._tell(Event(Fact.NOT_REUSED, {"rows": freed, "batch": since}))
        except StoreError:
            self._held = True
        finally:
            self._intake.look_again()
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


async def settle_the_rest(store: Store, batch: BatchRecord) -> bool:
    """When all others have ended: rows that are still held because no run told its version. True if there were any."""
    return batch.settings.since is not None and await asyncio.to_thread(_settle, store, batch.id, batch.settings.since)


def _settle(store: Store, batch_id: str, since: str) -> bool:
    held, taken = store.reuse(batch_id)
    if not held:
        return False
    batch = store.batch(batch_id)
    ran_well = store.counts(batch_id).of(RowState.SUCCEEDED) > taken
    if ran_well and batch is not None and batch.workflow_id is None:
        # This app tells no versions: that its form is the same is all that can be known.
        # Those whose earlier batch was deleted meanwhile are run.
        _until_none(lambda: store.take_results(batch_id, since, None, any_version=True))
        _until_none(lambda: store.free_held(batch_id, _ALL))
    else:
        store.free_held(batch_id, 1)
    return True


def _until_none(act: Callable[[], int]) -> None:
    while act():
        pass
