"""What the scenario logs of the real servers show: stops, disconnects, limits, outages (recordings 09, 10, 14, 16)."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from rowmill.testing.fake_dify import FakeDify, Serving, serve
from tests.testing.wires import Desk, ask, desk

SLOW = "app-slow"


def _stream(client: aiohttp.ClientSession, serving: Serving, user: str, delay_ms: int, key: str = SLOW) -> Any:
    inputs = {"delay_ms": delay_ms, "query": "q"}
    body = {"inputs": inputs, "response_mode": "streaming", "user": user}
    headers = {"Authorization": f"Bearer {key}"}
    return client.post(f"{serving.url}/workflows/run", json=body, headers=headers)


async def _event(response: aiohttp.ClientResponse, name: str) -> dict[str, Any]:
    async for line in response.content:
        if line.startswith(b"data: ") and json.loads(line[6:])["event"] == name:
            return json.loads(line[6:])
    raise AssertionError(f"the stream ended without {name}")


# ── 09 stop ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("profile", ["1.14", "1.11"])
@pytest.mark.parametrize("who", ["u1", "someone-else"])
async def test_a_stop_ends_the_stream_but_the_row_stays_running(profile: str, who: str) -> None:
    with serve(FakeDify(profile, hold_ms=0)) as serving:
        async with desk(serving) as look, aiohttp.ClientSession() as client:
            async with _stream(client, serving, "u1", 5000) as response:
                started = await _event(response, "workflow_started")
                answer = await look.post(f"/v1/workflows/tasks/{started['task_id']}/stop", {"user": who}, SLOW)
                finished = (await _event(response, "workflow_finished"))["data"]
                assert await response.content.read() == b"\n"
            assert answer == (200, {"result": "success"})
            assert (finished["status"], finished["error"]) == ("stopped", "Stopped by user.")
            assert (finished["outputs"], finished["total_steps"]) == ({}, 2)
            assert await look.detail(started["workflow_run_id"], SLOW) == "running"
            assert await look.logged("u1", SLOW) == ["running"]
    assert serving.fake.ledger.runs[0].status == "stopped"


async def test_a_stopped_stream_says_nothing_of_the_node_that_was_interrupted() -> None:
    with serve(FakeDify(hold_ms=0)) as serving:
        async with desk(serving) as look:
            waiting = asyncio.create_task(ask(serving, {"delay_ms": 3000}, key=SLOW))
            run = (await look.until(lambda: _runs(serving)))[0]
            await look.post(f"/v1/workflows/tasks/{run.task_id}/stop", {"user": "u"}, SLOW)
            seen = await waiting
    nodes = ["workflow_started", "node_started", "node_finished", "node_started", "workflow_finished"]
    assert seen.names == nodes


async def _runs(serving: Serving) -> list[Any]:
    return serving.fake.ledger.runs


# ── 08 timing ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_long_node_is_bridged_by_pings_and_the_stream_outlives_its_end() -> None:
    fake = FakeDify(hold_ms=200)
    fake.execution.ping_every = 0.15
    with serve(fake) as serving:
        seen = await ask(serving, {"delay_ms": 600}, key=SLOW)
    assert seen.body.count(b"event: ping\n\n") in (3, 4, 5)
    assert seen.names[3:5] == ["node_started", "text_chunk"]
    assert seen.finish["elapsed_time"] >= 0.6
    assert FakeDify().execution.ping_every == 10


# ── 10 disconnect ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("profile", ["1.14", "1.11"])
async def test_a_run_goes_on_after_its_stream_was_left(profile: str) -> None:
    with serve(FakeDify(profile)) as serving:
        async with desk(serving) as look, aiohttp.ClientSession() as client:
            async with _stream(client, serving, "u-disc", 250) as response:
                run_id = (await _event(response, "workflow_started"))["workflow_run_id"]
                response.close()
            assert await look.detail(run_id, SLOW) == "running"
            assert await look.logged("u-disc", SLOW) == ["running"]
            await look.until(lambda: _is(look, run_id, "succeeded"))
            assert await look.logged("u-disc", SLOW) == ["succeeded"]


async def _is(look: Desk, run_id: str, status: str) -> bool:
    return await look.detail(run_id, SLOW) == status


@pytest.mark.parametrize("profile", ["1.14", "1.11"])
async def test_a_blocking_run_that_was_left_is_found_by_its_user(profile: str) -> None:
    with serve(FakeDify(profile)) as serving:
        async with desk(serving) as look:
            await ask(serving, {"delay_ms": 250}, key=SLOW, user="u-block", streaming=False, patience=0.05)
            assert await look.logged("u-block", SLOW) == ["running"]
            assert await look.logged("u-bloc", SLOW) == []
            await look.until(lambda: _logged(look, "u-block", ["succeeded"]))


async def _logged(look: Desk, user: str, statuses: list[str]) -> bool:
    return await look.logged(user, SLOW) == statuses


async def test_on_1_8_a_run_that_was_left_stays_running_and_leaves_no_log_line() -> None:
    with serve(FakeDify("1.8")) as serving:
        async with desk(serving) as look, aiohttp.ClientSession() as client:
            async with _stream(client, serving, "u-cut", 100) as response:
                run_id = (await _event(response, "workflow_started"))["workflow_run_id"]
                response.close()
            await look.until(lambda: _ended(serving))
            assert await look.detail(run_id, SLOW) == "running"
            assert await look.logged("u-cut", SLOW) == []
            await ask(serving, {"delay_ms": 0}, key=SLOW, user="u-watched")
            assert await look.logged("u-watched", SLOW) == ["succeeded"]


async def _ended(serving: Serving) -> bool:
    return serving.fake.ledger.runs[-1].status != "running"


# ── 14 the app's limit ──────────────────────────────────────────────────────────────────────────────────────────────

LIMIT = "Too many requests. Please try again later. The current maximum concurrent requests allowed for {} is 2."


@pytest.mark.parametrize(
    ("profile", "streaming", "ran"),
    [("1.14", False, 2), ("1.14", True, 4), ("1.11", False, 2), ("1.11", True, 2)],
)
async def test_four_at_once_where_two_are_allowed(profile: str, ran: int, *, streaming: bool) -> None:
    with serve(FakeDify(profile, hold_ms=0)) as serving:
        asks = [ask(serving, {"delay_ms": 150}, key="app-limited", streaming=streaming) for _ in range(4)]
        answers = await asyncio.gather(*asks)
        app_id = serving.fake.apps["app-limited"].app_id
    assert sorted(seen.status for seen in answers) == [200] * ran + [400] * (4 - ran)
    for seen in answers:
        if seen.status == 400:
            refused = {"code": "invalid_param", "message": LIMIT.format(app_id), "status": 400}
            assert json.loads(seen.body) == refused
    assert len(serving.fake.ledger.runs) == ran


async def test_the_limit_is_free_again_when_runs_have_ended() -> None:
    with serve(FakeDify("1.11")) as serving:
        for _ in range(3):
            assert (await ask(serving, {"delay_ms": 0}, key="app-limited")).status == 200


# ── 16 outages ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_behind_a_full_worker_a_stream_is_silent_then_ends_and_the_run_comes_later() -> None:
    with serve(FakeDify(celery_slots=1, queue_idle_s=0.15, hold_ms=0)) as serving:
        async with desk(serving) as look:
            first = asyncio.create_task(ask(serving, {"delay_ms": 500}, key=SLOW, user="u-first"))
            await look.until(lambda: _runs(serving))
            queued = await ask(serving, {"delay_ms": 0}, key=SLOW, user="u-queued")
            assert (queued.status, queued.body, queued.end) == (200, b"event: ping\n\n", "clean")
            assert await look.logged("u-queued", SLOW) == []
            assert (await first).finish["status"] == "succeeded"
            await look.until(lambda: _logged(look, "u-queued", ["succeeded"]))


async def test_a_queued_stream_tells_its_run_when_a_slot_is_free() -> None:
    with serve(FakeDify(celery_slots=1, hold_ms=0)) as serving:
        asks = [ask(serving, {"delay_ms": 60}, key=SLOW) for _ in range(3)]
        answers = await asyncio.gather(*asks)
        starts = sorted(run.started_at for run in serving.fake.ledger.runs)
    assert [seen.finish["status"] for seen in answers] == ["succeeded"] * 3
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(starts))


async def test_blocking_runs_do_not_wait_in_the_queue() -> None:
    with serve(FakeDify(celery_slots=1)) as serving:
        async with desk(serving) as look:
            busy = asyncio.create_task(ask(serving, {"delay_ms": 400}, key=SLOW))
            await look.until(lambda: _runs(serving))
            seen = await ask(serving, {"delay_ms": 0}, key=SLOW, streaming=False)
            assert json.loads(seen.body)["data"]["status"] == "succeeded"
            assert not busy.done()
            await busy


async def test_when_the_api_is_killed_streaming_runs_live_on_in_the_worker_and_blocking_ones_are_lost() -> None:
    fake = FakeDify(celery_slots=2)
    with serve(fake) as serving:
        async with desk(serving) as look:
            streams = [ask(serving, {"delay_ms": 2000}, key=SLOW, user=f"u-s{n}") for n in range(3)]
            blocking = ask(serving, {"delay_ms": 2000}, key=SLOW, user="u-b", streaming=False)
            asking = [asyncio.create_task(one) for one in (*streams, blocking)]
            await look.until(lambda: _count(fake, 3))
            await asyncio.to_thread(serving.stop)
            assert [seen.end for seen in await asyncio.gather(*asking)] == ["cut"] * 4
            with pytest.raises(aiohttp.ClientConnectorError):
                await look.logged("u-b", SLOW)
            serving.start_again()
            assert await look.logged("u-b", SLOW) == ["running"]
            assert [await look.logged(f"u-s{n}", SLOW) for n in range(3)] == [["succeeded"]] * 3
            assert len(fake.ledger.runs) == 4


async def _count(fake: FakeDify, count: int) -> bool:
    return len(fake.ledger.runs) >= count


async def test_without_a_worker_all_runs_are_lost_with_the_api() -> None:
    fake = FakeDify("1.11")
    with serve(fake) as serving:
        async with desk(serving) as look:
            asking = asyncio.create_task(ask(serving, {"delay_ms": 2000}, key=SLOW, user="u-s"))
            await look.until(lambda: _count(fake, 1))
            await asyncio.to_thread(serving.stop)
            await asking
            serving.start_again()
            assert await look.logged("u-s", SLOW) == ["running"]


# ── human input ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_paused_run_is_answered_through_its_form() -> None:
    with serve(FakeDify(hold_ms=0)) as serving:
        async with desk(serving) as look:
            seen = await ask(serving, {"query": "[[fault:run_paused]]"})
            assert seen.names[-2:] == ["human_input_required", "workflow_paused"]
            run = serving.fake.ledger.runs[0]
            assert await look.detail(run.run_id) == "paused"
            form = f"/v1/form/human_input/form-{run.run_id}"
            assert (await look.post(form, {"inputs": {}, "action": "maybe", "user": "u"}))[0] == 412
            assert await look.post(form, {"inputs": {}, "action": "yes", "user": "u"}) == (200, {})
            assert await look.detail(run.run_id) == "succeeded"
            assert (await look.post(form, {"inputs": {}, "action": "yes", "user": "u"}))[0] == 412
