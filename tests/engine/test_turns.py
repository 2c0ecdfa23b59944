"""Rows that are turns of one conversation, through the whole engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from rowmill.dify.client import DifyClient
from rowmill.dify.versions import recovery
from rowmill.domain.batch import BatchMove, BatchState, Outcome, RowMove, RowState, RunStatus
from rowmill.domain.causes import Cause
from rowmill.domain.form import Mode
from rowmill.engine.check import Check
from rowmill.engine.intake import PAGE, Intake
from rowmill.ports.store import Again, AttemptKey, Finish, Intend, Record
from rowmill.store.memory import MemoryStore
from rowmill.testing.clock import QuickClock
from rowmill.testing.fake_dify import FakeDify, Fault, serve
from tests.engine.running import B, Ran, engine_on, run_batch, run_engine
from tests.ports.building import fill

OK, FAILED, UNKNOWN, PENDING = RowState.SUCCEEDED, RowState.FAILED, RowState.UNKNOWN, RowState.PENDING
KEYS = {Mode.CHATFLOW: "app-chatflow", Mode.CHAT: "app-chat", Mode.AGENT_CHAT: "app-agent"}


def turns(*names: str | None) -> tuple[list[str], list[str | None]]:
    """Questions that tell what they are: `a1` is the first turn of conversation a; `-` is a row of its own."""
    count: dict[str | None, int] = defaultdict(int)
    texts = []
    for name in names:
        count[name] += 1
        texts.append(f"{name or '-'}{count[name]}")
    return texts, list(names)


async def talk(folder: Path, names: tuple[str | None, ...], mode: Mode = Mode.CHATFLOW, **more: Any) -> Ran:
    texts, talks = turns(*names)
    return await run_batch(folder, texts, more.pop("fake", None), key=KEYS[mode], mode=mode, talks=talks, **more)


def said(ran: Ran) -> dict[str, list[str]]:
    """Questions by conversation at Dify, in the order in which they were asked."""
    found: dict[str, list[str]] = defaultdict(list)
    for run in ran.fake.ledger.runs:
        found[str(run.conversation_id)].append(run.query)
    return dict(found)


def states(ran: Ran) -> dict[str, RowState]:
    return {str(row.inputs["sys.query"]): row.state for row in ran.rows}


async def go_on(ran: Ran, folder: Path, key: str = "app-chatflow") -> Ran:
    async with engine_on(folder, ran.store) as engine:
        state, ending = await run_engine(engine, ran.store, key, ran.events)
    return Ran(state, ending, ran.store, ran.fake, ran.events)


@pytest.mark.parametrize("mode", KEYS)
async def test_turns_run_in_order_in_one_conversation_of_one_user(tmp_path: Path, mode: Mode) -> None:
    names = ("a", "b", None, "a", "b", "a", None, "c")
    ran = await talk(tmp_path, names, mode, fake=FakeDify(hold_ms=0, celery_slots=0, jitter_ms=20))
    assert (ran.state, ran.states) == (BatchState.COMPLETED, {OK: 8})
    assert sorted(said(ran).values()) == [["-1"], ["-2"], ["a1", "a2", "a3"], ["b1", "b2"], ["c1"]]
    users = {(run.query[0], run.user) for run in ran.fake.ledger.runs if run.query[0] != "-"}
    assert users == {("a", f"rowmill-{B}-c0"), ("b", f"rowmill-{B}-c1"), ("c", f"rowmill-{B}-c7")}
    by_row = {str(row.inputs["sys.query"]): row.conversation_id for row in ran.rows}
    assert by_row["a1"] == by_row["a2"] == by_row["a3"] != by_row["b1"]


async def test_other_conversations_run_meanwhile(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=60)
    ran = await talk(tmp_path, ("a",) * 4 + ("b",) * 4 + ("c",) * 4, fake=fake, concurrency=3)
    assert sorted(said(ran).values()) == [[f"{name}{i}" for i in range(1, 5)] for name in "abc"]
    starts = {run.query: run.started_at for run in fake.ledger.runs}
    assert starts["c2"] < starts["a4"], "nobody waits for another conversation to end"


async def test_one_conversation_larger_than_a_page(tmp_path: Path) -> None:
    ran = await talk(tmp_path, ("a",) * (PAGE + 20), concurrency=8)
    assert list(said(ran).values()) == [[f"a{i}" for i in range(1, PAGE + 21)]]


# fault in the second of four turns -> (state, its cause, runs paid for) and what becomes of the third and fourth
BROKEN = {
    "run_failed message=node_broke": (FAILED, "run_failed", 1),
    "status code=413 dify_code=request_entity_too_large": (FAILED, "too_large", 0),
    "run_stopped": (RowState.STOPPED, "stopped", 1),
    "reset_before": (UNKNOWN, "reply_lost", 0),
    "run_paused": (RowState.WAITING, "needs_person", 1),
}
GOES_ON = {
    "run_failed times=1": 2,
    "run_partial": 1,
    "cut_started": 1,
    "reset_after": 1,
    "too_many_400": 1,
    "status code=500": 1,
}


async def with_fault(folder: Path, fault: str, fake: FakeDify | None = None) -> Ran:
    texts, talks = turns("a", "a", "b", "a", "a", "b")
    kind, *pairs = fault.split()
    params = dict(pair.split("=") for pair in pairs)
    fake = fake or FakeDify(hold_ms=0, celery_slots=0)
    fake.faults.add(Fault(kind, match="'a2'", times=int(params.pop("times", 1)), params=params))
    return await run_batch(folder, texts, fake, key="app-chatflow", mode=Mode.CHATFLOW, talks=talks)


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_turn_without_an_answer_breaks_the_conversation(tmp_path: Path, fault: str) -> None:
    ran = await with_fault(tmp_path, fault)
    state, cause, paid = BROKEN[fault]
    rows = {str(row.inputs["sys.query"]): row for row in ran.rows}
    assert (rows["a2"].state, rows["a2"].cause) == (state, cause)
    for later in ("a3", "a4"):
        assert (rows[later].state, rows[later].cause, rows[later].attempts) == (FAILED, "conversation_broken", 0)
    assert (rows["a1"].state, rows["b1"].state, rows["b2"].state) == (OK, OK, OK)
    assert ran.state is BatchState.COMPLETED
    asked = [run.query for run in ran.fake.ledger.runs]
    assert (asked.count("a2"), asked.count("a3"), asked.count("a4")) == (paid, 0, 0)


@pytest.mark.parametrize("fault", GOES_ON)
async def test_a_turn_that_got_its_answer_after_all_breaks_nothing(tmp_path: Path, fault: str) -> None:
    ran = await with_fault(tmp_path, fault)
    assert set(states(ran).values()) <= {OK, RowState.PARTIAL}
    asked = [run.query for run in ran.fake.ledger.runs if run.query[0] == "a"]
    assert asked == ["a1", *["a2"] * GOES_ON[fault], "a3", "a4"]
    assert len({run.conversation_id for run in ran.fake.ledger.runs if run.query[0] == "a"}) == 1


async def test_a_broken_conversation_is_retried_together_and_in_order(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        texts, talks = turns("a", "a", "a", "a")
        fake.faults.add(Fault("run_failed", match="'a2'", params={"message": "node_broke"}))
        ran = await run_batch(tmp_path, texts, fake, key="app-chatflow", mode=Mode.CHATFLOW, server=server, talks=talks)
        assert states(ran) == {"a1": OK, "a2": FAILED, "a3": FAILED, "a4": FAILED}
        ran.store.move_batch(B, BatchMove.RETRY)
        assert ran.store.retry(B, Again("run_failed")) == 3, "the later turns go along"
        again = await go_on(ran, tmp_path)
    assert set(states(again).values()) == {OK}
    assert list(said(again).values()) == [["a1", "a2", "a2", "a3", "a4"]], "the same conversation goes on"


async def test_later_turns_alone_are_not_sent_while_the_earlier_has_no_answer(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        texts, talks = turns("a", "a", "a")
        fake.faults.add(Fault("reset_before", match="'a2'"))
        ran = await run_batch(tmp_path, texts, fake, key="app-chatflow", mode=Mode.CHATFLOW, server=server, talks=talks)
        ran.store.move_batch(B, BatchMove.RETRY)
        assert ran.store.retry(B, Again("conversation_broken")) == 1
        again = await go_on(ran, tmp_path)
    assert (again.state, states(again)["a3"]) == (BatchState.COMPLETED, FAILED)
    assert [run.query for run in fake.ledger.runs] == ["a1"]


async def test_a_paused_turn_that_was_answered_lets_the_later_ones_follow(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        texts, talks = turns("a", "a", "a")
        fake.faults.add(Fault("run_paused", match="'a2'"))
        ran = await run_batch(tmp_path, texts, fake, key="app-chatflow", mode=Mode.CHATFLOW, server=server, talks=talks)
        run_id = next(str(row.run_id) for row in ran.rows if row.state is RowState.WAITING)
        assert fake.execution.answer_form(f"form-{run_id}", "yes")
        await look_again(ran, server.url)
        ran.store.move_batch(B, BatchMove.RETRY)
        assert ran.store.retry(B, Again("conversation_broken")) == 1
        again = await go_on(ran, tmp_path)
    assert set(states(again).values()) == {OK}
    assert list(said(again).values()) == [["a1", "a2", "a3"]]


async def look_again(ran: Ran, url: str) -> None:
    async with DifyClient(url, "app-chatflow", Mode.CHATFLOW) as app:
        known = recovery("1.14.2", Mode.CHATFLOW)
        await Check(ran.store, ran.store.take_over("check"), QuickClock(), app, known).run(B)


async def test_an_interrupted_batch_goes_on_where_each_conversation_stands(tmp_path: Path) -> None:
    """The conversation, and the user that it belongs to, are known from the rows alone."""
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=30)
    names = tuple(name for name in "abcdef" for _ in range(5))
    with serve(fake) as server:
        texts, talks = turns(*names)
        ran = await run_batch(
            tmp_path,
            texts[:0] or texts,
            fake,
            key="app-chatflow",
            mode=Mode.CHATFLOW,
            server=server,
            talks=talks,
            until=0,
        )
        assert ran.state is BatchState.PAUSED
        for _ in range(4):
            async with engine_on(tmp_path, ran.store) as engine:
                running = asyncio.create_task(run_engine(engine, ran.store, "app-chatflow", ran.events))
                before = len(fake.ledger.runs)
                while len(fake.ledger.runs) < before + 5 and not running.done():
                    await asyncio.sleep(0.005)
                engine.abandon()
                await asyncio.gather(running, return_exceptions=True)
        last = await go_on(ran, tmp_path)
    assert (last.state, last.states) == (BatchState.COMPLETED, {OK: 30})
    assert sorted(said(last).values()) == [[f"{name}{i}" for i in range(1, 6)] for name in "abcdef"]


async def test_a_sample_ends_within_a_conversation(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        texts, talks = turns("a", "a", "a", "b")
        ran = await run_batch(
            tmp_path, texts, fake, key="app-chatflow", mode=Mode.CHATFLOW, server=server, talks=talks, until=2
        )
        assert (ran.state, states(ran)) == (BatchState.PAUSED, {"a1": OK, "a2": OK, "a3": PENDING, "b1": PENDING})
        again = await go_on(ran, tmp_path)
    assert sorted(said(again).values()) == [["a1", "a2", "a3"], ["b1"]]


# ── the intake alone ────────────────────────────────────────────────────────────────────────────────────────────


class Gate:
    """An intake over a store in memory."""

    def __init__(self, talks: tuple[str | None, ...]) -> None:
        self.store = MemoryStore()
        self.fence = fill(self.store, len(talks), B, talks=talks)
        self.intake = Intake(self.store, B, QuickClock(), None, self.put)

    async def put(self, record: Record) -> bool:
        return self.store.write([record], self.fence)[0]

    def end(self, job: Any, move: RowMove = RowMove.SUCCEED) -> None:
        key = AttemptKey(B, job.position, job.tries + 1)
        outcome = Outcome(RunStatus.SUCCEEDED, conversation_id="c")
        took_effect = self.store.write([Intend(key, 0, "u", 0.0), Finish(key, move, outcome)], self.fence)
        assert took_effect == [True, True]
        self.intake.settled(job)


async def test_only_first_turns_start_and_the_next_follow_before_what_has_not_begun() -> None:
    gate = Gate(("a", "a", None, "b", "a", "b", None))
    first = [await gate.intake.next() for _ in range(3)]
    assert [job.position for job in first if job] == [0, 2, 3]
    gate.end(first[0])
    gate.end(first[2])
    assert [job.position for job in [await gate.intake.next() for _ in range(3)] if job] == [1, 5, 6]


async def test_a_row_is_given_when_its_turn_comes_while_others_wait_for_news() -> None:
    gate = Gate(("a", "a"))
    job = await gate.intake.next()
    waiting = [asyncio.create_task(gate.intake.next()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.end(job)
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (given,) = [task.result() for task in done]
    assert given is not None
    assert given.position == 1
    gate.end(given)
    assert [await task for task in waiting if task not in done] == [None, None]


async def test_a_turn_that_was_put_back_keeps_its_place() -> None:
    gate = Gate(("a", "a"))
    job = await gate.intake.next()
    assert job is not None
    gate.intake.release(job)
    gate.intake.give_back(job)
    gate.intake.settled()
    assert await gate.intake.next() is job


async def test_what_can_never_start_ends_the_intake() -> None:
    gate = Gate(("a", "a", "a"))
    job = await gate.intake.next()
    assert job is not None
    gate.end(job, RowMove.FAIL)
    assert await gate.intake.next() is None
    assert gate.store.causes(B) == [(Cause.CONVERSATION_BROKEN.value, FAILED, 2)]
