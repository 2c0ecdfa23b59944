"""One more look at rows whose end is not known, or that wait for a person. Starts nothing, so it costs nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rowmill.domain.batch import AttemptState, Outcome, RunStatus
from rowmill.domain.causes import Cause
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.verdict import judge_outcome
from rowmill.engine.attempt import finish_record
from rowmill.engine.downloads import Downloads
from rowmill.engine.lookup import Lookup
from rowmill.ports.store import Ask, Finish

if TYPE_CHECKING:
    from rowmill.ports.clock import Clock
    from rowmill.ports.dify import DifyApp, Recovery
    from rowmill.ports.files import Shelf
    from rowmill.ports.store import OpenAttempt, Store

PAGE = 200
# Looks at one time: Dify serves ten connections, and others want some.
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Checked:
    """How many rows were looked at, and how many of them have ended since."""

    looked: int = 0
    ended: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """`fence` from Store.take_over."""

    store: Store
    fence: int
    clock: Clock
    app: DifyApp
    recovery: Recovery
    shelf: Shelf | None = None
    """where files of results are kept; without it none is fetched"""

    async def run(self, batch_id: str) -> Checked:
        """Looks once at every paused and every indeterminate attempt of a batch, and settles those that have ended."""
        downloads = Downloads(self.app, self.store, self.shelf, self.clock, lambda _: None)
        try:
            checked = await self._settle(batch_id, downloads)
            await downloads.done()
        finally:
            downloads.stop()
            await downloads.stopped()
        return checked

    async def _settle(self, batch_id: str, downloads: Downloads) -> Checked:
        lookup = Lookup(self.app, self.store, batch_id, asyncio.to_thread)
        looked, ended, after = 0, 0, -1
        while page := await asyncio.to_thread(self.store.to_check, batch_id, after, PAGE):
            answers = await self._look_at(page, lookup)
            records = [record for record in answers if record is not None]
            took_effect = await asyncio.to_thread(self.store.write, records, self.fence)
            looked, after = looked + len(page), page[-1].key.position
            ended += sum(took_effect)
            for record, is_new in zip(records, took_effect, strict=True):
                if is_new and isinstance(record, Finish):
                    downloads.collect(record.key, record.outcome.outputs)
        return Checked(looked, ended)

    async def _look_at(self, page: list[OpenAttempt], lookup: Lookup) -> list[Finish | Ask | None]:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(attempt: OpenAttempt) -> Finish | Ask | None:
            async with room:
                return await self._judge(attempt, lookup)

        return list(await asyncio.gather(*[one(attempt) for attempt in page]))

    async def _judge(self, attempt: OpenAttempt, lookup: Lookup) -> Finish | Ask | None:
        try:
            outcome = await self._outcome(attempt, lookup)
        except DifyFailureError:
            return None  # not known now: it stays what it is, and can be looked at again
        if outcome is None or (outcome.status is RunStatus.PAUSED and attempt.state is AttemptState.PAUSED):
            return None
        # Not to be tried again from here, whatever it failed of: that would cost.
        verdict = judge_outcome(outcome, billed=attempt.key.number, retries=0)
        return finish_record(attempt.key, outcome, verdict, self.clock)

    async def _outcome(self, attempt: OpenAttempt, lookup: Lookup) -> Outcome | None:
        recovery, run_id = self.recovery, attempt.run_id
        if attempt.cause == Cause.KILLS_PROCESS.value:
            return None  # it would end this process too
        if run_id is None and recovery.by_user and recovery.by_run_id:
            found = await lookup.run_id(attempt)
            run_id = found if isinstance(found, str) else None
        if run_id is not None and recovery.by_run_id:
            return (await lookup.outcome(run_id))[1]
        if recovery.by_message:
            said = await lookup.message(attempt)
            return None if said is None else said.outcome
        return None
