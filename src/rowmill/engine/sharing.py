"""Rows that follow another one take its result while the batch runs, and at its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rowmill.domain.errors import StoreError

if TYPE_CHECKING:
    from rowmill.ports.clock import Clock
    from rowmill.ports.store import BatchRecord, Store

# Seconds between two looks; longer where a look takes long, so that looking costs one part in twenty at most.
SHORTEST_GAP = 1.0
REST_PER_LOOK = 20.0


class Sharing:
    """Does nothing in a batch that does not share. What could not be shared, because the database refuses, is shared by
    the next start: a follower is never run by itself."""

    def __init__(self, batch: BatchRecord, store: Store, clock: Clock) -> None:
        self._batch = batch
        self._store = store
        self._clock = clock
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._batch.settings.share_duplicates:
            self._task = asyncio.create_task(self._look_regularly(), name="sharing")

    async def settle(self) -> None:
        """All that there is to share by now: before it is said what the batch has come to."""
        if self._task is not None and not await self._share():
            await self._clock.sleep_or(SHORTEST_GAP, self._closing)

    def abandon(self) -> None:
        """Leave at once."""
        self._closing.set()

    async def finish(self) -> None:
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _look_regularly(self) -> None:
        gap = SHORTEST_GAP
        while not self._closing.is_set():
            await self._clock.sleep_or(gap, self._closing)
            began = self._clock.monotonic()
            await self._share()
            gap = max(SHORTEST_GAP, REST_PER_LOOK * (self._clock.monotonic() - began))

    async def _share(self) -> bool:
        """False where the database refuses."""
        try:
            while not self._closing.is_set():
                if not await asyncio.to_thread(self._store.share_results, self._batch.id):
                    break
        except StoreError:
            return False
        return True
