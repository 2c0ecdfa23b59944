"""Which version of the app the rows of one batch are sent to, and what their runs tell of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from rowmill.domain.events import Event, Fact
from rowmill.domain.versions import Sightings, short

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.ports.store import AttemptKey, BatchRecord, Store


class Versions:
    """Told by every attempt what it heard. `learn` is called with each version that a run tells."""

    def __init__(
        self, batch: BatchRecord, store: Store, tell: Callable[[Event], None], learn: Callable[[str], None]
    ) -> None:
        self._batch = batch
        self._store = store
        self._sightings = Sightings(batch.workflow_id)
        self._pin_first = batch.settings.pin_first
        self._tell = tell
        self._learn = learn
        self.pinned = batch.settings.pinned_workflow or (batch.workflow_id if self._pin_first else None)

    @property
    def batch_version(self) -> str | None:
        """What is known without a run."""
        return self.pinned or self._batch.workflow_id

    async def remember(self) -> None:
        """What the batch has met before is no news; it may have been met since the batch was read."""
        batch = await asyncio.to_thread(self._store.batch, self._batch.id)
        known = self._batch.workflow_id if batch is None else batch.workflow_id
        if known is None:
            return
        self._batch = replace(self._batch, workflow_id=known)
        if self._pin_first and self.pinned is None:
            self.pinned = known
        met = await asyncio.to_thread(self._store.versions, self._batch.id)
        self._sightings = Sightings(known, {known, *(workflow_id for workflow_id, _ in met)})

    def heard(self, key: AttemptKey, workflow_id: str | None) -> None:
        """The version of one run. The first row runs alone until it is accepted: pinned by what it tells, no other row
        can meet another version."""
        before = self._sightings.note(workflow_id)
        if workflow_id is not None:
            self._learn(workflow_id)
        if workflow_id is not None and self._pin_first and self.pinned is None:
            self.pinned = workflow_id
        if before is not None and workflow_id is not None and self.pinned is None:
            event = Event(Fact.REPUBLISHED, {"position": key.position, "old": short(before), "new": short(workflow_id)})
            self._tell(event)
