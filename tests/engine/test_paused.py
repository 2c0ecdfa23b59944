"""Runs that wait for a person, and the second look at what is not known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rowmill.dify.client import DifyClient
from rowmill.dify.versions import recovery
from rowmill.domain.batch import BatchMove, BatchState, RowState
from rowmill.domain.form import Mode
from rowmill.engine.check import Check, Checked
from rowmill.ports.store import Again
from rowmill.testing.clock import QuickClock
from rowmill.testing.fake_dify import FakeDify, Fault, Serving, serve
from tests.engine.running import DEADLINES, B, Ran, engine_on, queries, run_batch, run_engine

OK, WAITING, UNKNOWN = RowState.SUCCEEDED, RowState.WAITING, RowState.UNKNOWN
KEYS = {Mode.WORKFLOW: "app-echo", Mode.CHATFLOW: "app-chatflow", Mode.CHAT: "app-chat"}


def fake_of(profile: str = "1.14") -> FakeDify:
    fake = FakeDify(profile, hold_ms=0, celery_slots=0)
    fake.apps["app-echo"].form[0]["text-input"]["max_length"] = 256
    return fake


async def check(ran: Ran, server: Serving, mode: Mode = Mode.WORKFLOW) -> Checked:
    batch = ran.store.batch(B)
    assert batch is not None
    async with DifyClient(server.url, KEYS[mode], mode, deadlines=DEADLINES) as app:
        known = recovery(batch.app.version, mode)
        fence = ran.store.take_over("check")
        return await Check(ran.store, fence, QuickClock(), app, known).run(B)


PAUSED = "[[fault:run_paused]]"


@pytest.mark.parametrize("mode", [Mode.WORKFLOW, Mode.CHATFLOW])
async def test_the_batch_completes_around_a_row_that_waits_for_a_person(tmp_path: Path, mode: Mode) -> None:
    ran = await run_batch(tmp_path, queries(8, r3=PAUSED), fake_of(), key=KEYS[mode], mode=mode)
    assert ran.state is BatchState.COMPLETED
    assert ran.states == {OK: 7, WAITING: 1}
    row = ran.rows[3]
    (ask,) = json.loads(row.asks or "[]")
    assert (row.cause, row.outputs, row.error) == ("needs_person", None, None)
    assert (ask["node_title"], ask["form_token"]) == ("Approval", f"form-{row.run_id}")
    assert ask["actions"][0]["title"] == "Approve"
    assert ran.store.busy_slots(B) == set(), "its slot is free"
    assert (ran.store.counts(B).asking, ran.store.counts(B).open) == (1, 0)


async def test_a_batch_of_nothing_but_paused_rows_comes_to_its_end(tmp_path: Path) -> None:
    fake = fake_of()
    fake.faults.add(Fault("run_paused", times=-1))
    ran = await run_batch(tmp_path, queries(6), fake, concurrency=2)
    assert (ran.state, ran.states) == (BatchState.COMPLETED, {WAITING: 6})
    assert len(fake.ledger.runs) == 6


async def test_1_13_does_not_say_what_it_asks(tmp_path: Path) -> None:
    ran = await run_batch(tmp_path, queries(3, r1=PAUSED), fake_of("1.13"))
    assert (ran.rows[1].state, ran.rows[1].asks) == (WAITING, None)


@pytest.mark.parametrize(("action", "state", "cause"), [("yes", OK, None), ("no", RowState.FAILED, "run_failed")])
async def test_a_paused_row_settles_when_it_was_answered(
    tmp_path: Path, action: str, state: RowState, cause: str | None
) -> None:
    with serve(fake_of()) as server:
        ran = await run_batch(tmp_path, queries(4, r2=PAUSED), server.fake, server=server)
        assert await check(ran, server) == Checked(looked=1, ended=0), "nobody has answered yet"
        assert ran.rows[2].asks is not None
        run_id = str(ran.rows[2].run_id)
        assert server.fake.execution.answer_form(f"form-{run_id}", action)
        assert await check(ran, server) == Checked(looked=1, ended=1)
        row = ran.rows[2]
        assert (row.state, row.cause, row.asks, row.run_id) == (state, cause, None, run_id)
        assert await check(ran, server) == Checked()
        assert len(server.fake.ledger.runs) == 4, "a look costs nothing"


async def test_a_cut_run_that_turns_out_to_be_paused(tmp_path: Path) -> None:
    """Its row asks, although what it asks for went by unheard."""
    with serve(fake_of()) as server:
        ran = await run_batch(tmp_path, queries(3, r1="[[fault:cut_started]]"), server.fake, server=server)
        assert ran.rows[1].state is OK
    fake = fake_of()
    run_end = fake.execution._end

    def pause_the_cut_one(run: Any, fault: Any, **more: Any) -> None:
        paused = Fault("run_paused") if fault is not None and fault.kind == "cut_started" else fault
        run_end(run, paused, **more)

    fake.execution._end = pause_the_cut_one  # type: ignore[method-assign]
    folder = tmp_path / "again"
    folder.mkdir()
    again = await run_batch(folder, queries(3, r1="[[fault:cut_started]]"), fake)
    assert (again.state, again.rows[1].state, again.rows[1].asks) == (BatchState.COMPLETED, WAITING, None)
    assert again.store.busy_slots(B) == set()


# ── unknown rows ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_unknown_row_is_found_when_its_run_appears_at_last(tmp_path: Path) -> None:
    """Behind a long queue: the window closes over it, and the run comes all the same."""
    fake = FakeDify(hold_ms=0, celery_slots=1, queue_idle_s=0.05, latency_ms=700)
    with serve(fake) as server:
        ran = await run_batch(tmp_path, queries(3), fake, server=server, lost_window=5.0, row_timeout=100.0)
        assert ran.states[UNKNOWN] >= 1
        unknown = ran.states[UNKNOWN]
        while len([run for run in fake.ledger.runs if run.status == "succeeded"]) < 3:
            await QuickClock(1).sleep(0.05)
        assert await check(ran, server) == Checked(looked=unknown, ended=unknown)
        assert ran.states == {OK: 3}
        assert ran.paid_twice == []
        assert ran.store.busy_slots(B) == set()


@pytest.mark.parametrize(
    ("mode", "fault", "paid"),
    [(Mode.WORKFLOW, "running_forever", 1), (Mode.WORKFLOW, "reset_before", 0), (Mode.CHAT, "reset_after", 1)],
)
async def test_what_stays_unknown_stays_so(tmp_path: Path, mode: Mode, fault: str, paid: int) -> None:
    with serve(fake_of()) as server:
        texts = queries(3, r1=f"[[fault:{fault}]]")
        ran = await run_batch(tmp_path, texts, server.fake, server=server, key=KEYS[mode], mode=mode)
        before = ran.rows
        assert await check(ran, server, mode) == Checked(looked=1, ended=0)
        assert ran.rows == before
        assert len(server.fake.ledger.runs) == 2 + paid


async def test_a_run_that_is_seen_to_end_late_settles(tmp_path: Path) -> None:
    with serve(fake_of()) as server:
        ran = await run_batch(tmp_path, queries(3, r1="[[fault:running_forever]]"), server.fake, server=server)
        assert (ran.rows[1].state, ran.rows[1].cause) == (UNKNOWN, "run_never_ended")
        server.fake.execution._runs[str(ran.rows[1].run_id)].status = "succeeded"
        assert await check(ran, server) == Checked(looked=1, ended=1)
        assert ran.rows[1].state is OK


async def test_a_server_that_is_away_settles_nothing(tmp_path: Path) -> None:
    with serve(fake_of()) as server:
        ran = await run_batch(tmp_path, queries(3, r1=PAUSED), server.fake, server=server)
        server.stop()
        assert await check(ran, server) == Checked(looked=1, ended=0)
    assert ran.rows[1].state is WAITING


async def test_a_run_that_failed_of_something_passing_is_not_paid_for_again_by_a_look(tmp_path: Path) -> None:
    with serve(fake_of()) as server:
        ran = await run_batch(tmp_path, queries(2, r1=PAUSED), server.fake, server=server, retries=5)
        run = server.fake.execution._runs[str(ran.rows[1].run_id)]
        run.end(server.fake.ledger, "failed", "[models] Rate Limit Error")
        assert await check(ran, server) == Checked(looked=1, ended=1)
        assert (ran.rows[1].state, ran.rows[1].cause) == (RowState.FAILED, "model_rate_limit")


async def test_a_paused_row_that_is_put_back_runs_anew(tmp_path: Path) -> None:
    with serve(fake_of()) as server:
        ran = await run_batch(tmp_path, queries(3, r1=PAUSED), server.fake, server=server)
        old = str(ran.rows[1].run_id)
        ran.store.move_batch(B, BatchMove.RETRY)
        assert ran.store.retry(B, Again()) == 0
        assert ran.store.retry(B, Again("needs_person")) == 1
        async with engine_on(tmp_path, ran.store) as engine:
            state, _ = await run_engine(engine, ran.store, "app-echo", ran.events)
        again = replace(ran, state=state)
        assert (again.state, again.states) == (BatchState.COMPLETED, {OK: 3})
        assert again.rows[1].run_id != old
        assert server.fake.execution.answer_form(f"form-{old}", "yes")
        assert await check(ran, server) == Checked(), "its row has gone on without it"
