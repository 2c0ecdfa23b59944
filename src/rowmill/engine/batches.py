"""Starting batches, and what their state is when the window closes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rowmill.domain.batch import BatchMove, BatchState
from rowmill.domain.errors import FencedError
from rowmill.engine.runner import BatchRunner, Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.domain.events import Event
    from rowmill.engine.reconcile import Patience
    from rowmill.ports.clock import Clock
    from rowmill.ports.dify import DifyApp, Recovery
    from rowmill.ports.store import BatchRecord, SentMarks, Store

# Reasons that are no cause of failure: why a batch stands still although nothing is wrong.
INTERRUPTED = "interrupted"
SAMPLE = "sample"


@dataclass(slots=True)
class Engine:
    """One process that runs batches of one store. `fence` from Store.take_over; `open_marks` opens a batch's marks."""

    store: Store
    open_marks: Callable[[str], SentMarks]
    fence: int
    clock: Clock
    patience: Patience | None = None
    _runner: BatchRunner | None = None
    _draining: bool = False

    def drain(self) -> None:
        """No new rows; also where the batch is only about to start."""
        self._draining = True
        if self._runner is not None:
            self._runner.drain()

    def abandon(self) -> None:
        """Stop listening at once; see BatchRunner.abandon."""
        self.drain()
        if self._runner is not None:
            self._runner.abandon()

    async def run(
        self,
        batch: BatchRecord,
        app: DifyApp,
        recovery: Recovery,
        tell: Callable[[Event], None],
        *,
        until: int | None = None,
    ) -> tuple[BatchState, Ending]:
        """Run a batch to its end, or to its pause. `until`: only rows below this position (a sample)."""
        now = self.clock.wall()
        await asyncio.to_thread(self.store.move_batch, batch.id, BatchMove.START, at=now)
        sent = self.open_marks(batch.id)
        self._runner = BatchRunner(
            batch, app, recovery, self.store, sent, self.fence, self.clock, tell, until=until, patience=self.patience
        )
        if self._draining:
            self._runner.drain()
        try:
            ending = await self._runner.run()
        except FencedError:
            raise  # the batch is another runner's by now
        except BaseException:
            # The rows tell the truth; the batch says only that nobody is working on it.
            await asyncio.to_thread(self._close, batch.id, Ending(asked=True), sample=False)
            raise
        finally:
            self._runner, self._draining = None, False
            sent.close()
        return await asyncio.to_thread(self._close, batch.id, ending, sample=until is not None), ending

    def _close(self, batch_id: str, ending: Ending, *, sample: bool) -> BatchState:
        now = self.clock.wall()
        if self.store.counts(batch_id).open == 0:
            return self.store.move_batch(batch_id, BatchMove.COMPLETE, at=now)
        reason = ending.cause.value if ending.cause else (SAMPLE if sample and not ending.asked else INTERRUPTED)
        self.store.move_batch(batch_id, BatchMove.PAUSE, reason=reason, detail=ending.detail or None, at=now)
        return self.store.move_batch(batch_id, BatchMove.DRAINED, reason=reason, detail=ending.detail or None, at=now)
