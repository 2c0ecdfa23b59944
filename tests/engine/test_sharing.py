"""Followers take results while the batch runs, at its end, and after whatever ended the last process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rowmill.domain.batch import BatchMove, BatchState, Outcome, RowMove, RowState, RunStatus, Settings
from rowmill.domain.errors import StoreError
from rowmill.domain.form import Mode
from rowmill.engine.sharing import Sharing
from rowmill.ports.store import AttemptKey, Finish, Intend
from rowmill.testing.clock import QuickClock
from rowmill.testing.fake_dify import FakeDify, Fault, serve
from tests.engine.running import B, engine_on, make_store, run_batch, run_engine

OK = RowState.SUCCEEDED
SHARING = Settings(concurrency=1, share_duplicates=True)


async def test_each_input_is_run_once(tmp_path: Path) -> None:
    texts = ["a", "b", "a", "", "a", "c", "b"]
    ran = await run_batch(tmp_path, texts, share_duplicates=True)
    assert (ran.state, ran.states) == (BatchState.COMPLETED, {OK: 6, RowState.SKIPPED: 1})
    assert sorted(run.inputs["query"] for run in ran.fake.ledger.runs) == ["a", "b", "c"]


async def test_results_are_shared_while_the_batch_runs(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        store = make_store(tmp_path, ["a", "a", "slow"], server.url, SHARING, Mode.WORKFLOW, "1.14.2")
        fake.execution.latency = 0.0
        async with engine_on(tmp_path, store) as engine:
            running = asyncio.create_task(run_engine(engine, store, "app-echo", []))
            while len(fake.ledger.runs) < 1:
                await asyncio.sleep(0.002)
            fake.execution.latency = 1.0
            while next(row for row in store.results(B) if row.position == 1).state is not OK:
                await asyncio.sleep(0.01)
            assert not running.done()
            await running


async def test_a_leader_that_ended_before_a_kill_is_shared_by_the_next_start(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        store = make_store(tmp_path, ["a", "a", "a"], server.url, SHARING, Mode.WORKFLOW, "1.14.2")
        store.move_batch(B, BatchMove.START)
        key = AttemptKey(B, 0, 1)
        done = Finish(key, RowMove.SUCCEED, Outcome(RunStatus.SUCCEEDED, outputs='{"x":1}', tokens=5))
        store.write([Intend(key, 0, f"rowmill-{B}-s0", 0.0), done], store.take_over("killed"))
        async with engine_on(tmp_path, store) as engine:
            state, _ = await run_engine(engine, store, "app-echo", [])
    assert state is BatchState.COMPLETED
    assert [(row.outputs, row.tokens) for row in store.results(B)] == [('{"x":1}', 5), ('{"x":1}', 0), ('{"x":1}', 0)]
    assert fake.ledger.runs == []


class Refusing:
    """A store whose disk is full."""

    def share_results(self, batch_id: str) -> int:
        raise StoreError("store_full", path=batch_id)


async def test_a_database_that_refuses_does_not_end_the_run(tmp_path: Path) -> None:
    store = make_store(tmp_path, ["a"], "http://nowhere/v1", SHARING, Mode.WORKFLOW, "1.14.2")
    looking = Sharing(store.batch(B), Refusing(), QuickClock())  # type: ignore[arg-type]
    looking.begin()
    await asyncio.sleep(0.05)
    await looking.settle()
    await looking.finish()


async def test_rows_that_are_the_same_ask_a_person_once_and_the_batch_completes_around_them(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    fake.faults.add(Fault("run_paused", match="a"))
    ran = await run_batch(tmp_path, ["a", "b", "a", "a"], fake, share_duplicates=True)
    assert (ran.state, ran.states) == (BatchState.COMPLETED, {OK: 1, RowState.WAITING: 3})
    assert ran.runs_of("a") == 1
    assert [row.asks is not None for row in ran.rows] == [True, False, True, True]


async def test_turns_of_a_conversation_are_all_run(tmp_path: Path) -> None:
    talks = ["x", "x", None, None]
    ran = await run_batch(
        tmp_path, ["a"] * 4, key="app-chat", mode=Mode.CHAT, talks=talks, share_duplicates=True, concurrency=2
    )
    assert (ran.state, ran.states) == (BatchState.COMPLETED, {OK: 4})
    assert len(ran.fake.ledger.runs) == 3
    assert [row.leader for row in ran.rows] == [None, None, None, 2]
