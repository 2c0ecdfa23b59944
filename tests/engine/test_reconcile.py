"""A search that is laid down, and taken up again when the batch goes on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from rowmill.domain.batch import AttemptState, Outcome, RunStatus, Settings
from rowmill.engine.reconcile import Patience, Reconciler, Settled
from rowmill.ports.dify import Conversation, LoggedRun, Recovery, RunDetail, Said
from rowmill.ports.store import Attach, AttemptKey, Finish, OpenAttempt, RowJob
from rowmill.testing.clock import QuickClock

LOST = OpenAttempt(AttemptKey("b", 0, 1), AttemptState.UNKNOWN, "user", 0, 0.0, RowJob(0, {"sys.query": "hi"}))
DONE = Outcome(RunStatus.SUCCEEDED, '{"answer": "x"}')
WORKFLOW = Recovery(by_run_id=True, by_user=True, from_start=True)
CHATFLOW = Recovery(by_run_id=True, by_user=False, from_start=False, by_message=True)


@dataclass
class World:
    """Dify, the store and the batch around a reconciler. `done`: whether the run has ended."""

    done: bool = False
    quit: asyncio.Event = field(default_factory=asyncio.Event)
    records: list[Any] = field(default_factory=list)
    looks: int = 0

    def lane(self) -> Any:
        return SimpleNamespace(
            batch_id="b",
            app=self,
            settings=Settings(),
            recorder=self,
            share=SimpleNamespace(proven=asyncio.Event()),
            intake=SimpleNamespace(quit=self.quit, settled=lambda _: None),
            clock=QuickClock(10_000.0),
            brakes=SimpleNamespace(allow=lambda verdict: verdict, note=lambda *_: None),
            sent=SimpleNamespace(sent_at=lambda *_: None),
            downloads=SimpleNamespace(collect=lambda *_: None),
            pause=lambda *_: None,
            versions=SimpleNamespace(heard=lambda *_: None),
        )

    async def put(self, record: Any) -> bool:
        self.records.append(record)
        return True

    @property
    def known(self) -> set[str]:
        """What the store says that attempts have: this one as well, once it was found."""
        return {"run", "talk", "message"} if any(isinstance(record, Attach) for record in self.records) else set()

    async def run_detail(self, run_id: str) -> RunDetail:
        if self.records:
            self._interrupt()
        return RunDetail(run_id, "succeeded" if self.done else "running", DONE if self.done else None, {})

    async def runs_of(self, user: str, after: float) -> list[LoggedRun]:
        return [LoggedRun("run", "running", 0.0, user)]

    async def conversations(self, user: str) -> list[Conversation]:
        return [Conversation("talk", 0.0)]

    async def messages(self, conversation_id: str, user: str) -> list[Said]:
        self.looks += 1
        if self.records:
            self._interrupt()
        return [Said("message", "talk", "hi", 0.0, DONE if self.done else None, {})]

    def _interrupt(self) -> None:
        if not self.done:
            self.quit.set()

    def known_runs(self, *_: Any) -> set[str]:
        return self.known

    def known_talk(self, batch_id: str, user: str, ids: list[str]) -> set[str]:
        return self.known & set(ids)

    def unsettled(self, *_: Any) -> int:
        return 1


async def here(call: Any, *args: Any) -> Any:
    return call(*args)


@pytest.mark.parametrize("recovery", [WORKFLOW, CHATFLOW], ids=["by its run id", "by its message"])
async def test_what_was_found_is_still_the_attempts_own_when_the_batch_goes_on(recovery: Recovery) -> None:
    world = World()
    reconciler = Reconciler(world.lane(), world, recovery, lambda _: None, here, Patience())  # type: ignore[arg-type]
    assert await reconciler.settle(LOST, None) is Settled.LAID_DOWN
    assert [type(record) for record in world.records] == [Attach]
    world.quit.clear()
    world.done = True
    assert await reconciler.settle(LOST, None) is Settled.SLOT_FREE
    assert isinstance(world.records[-1], Finish)


async def test_an_answer_that_does_not_come_is_not_waited_for_long_while_the_batch_is_being_stopped() -> None:
    world = World()
    reconciler = Reconciler(world.lane(), world, CHATFLOW, lambda _: None, here, Patience())  # type: ignore[arg-type]
    reconciler.hurry()
    assert await reconciler.settle(LOST, None) is Settled.SLOT_TAKEN
    assert world.looks < 15
