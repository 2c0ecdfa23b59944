"""Every fault: what the client sees on the wire, whether a run was paid for, and what can be looked up afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rowmill.testing.fake_dify import FakeDify, Fault, Serving, serve
from rowmill.testing.fake_dify.faults import KINDS
from tests.testing.wires import Desk, Seen, ask, desk

PING = b"event: ping\n\n"
WHOLE = [
    "workflow_started", "node_started", "text_chunk", "node_finished", "node_started", "node_finished",
    "workflow_finished",
]  # fmt: skip
START = WHOLE[:2]
HOLD = 0.1


@dataclass(frozen=True)
class Case:
    """A streaming run of app echo under one fault. `row`: its status, an HTTP status, or None where no run began."""

    kind: str
    row: str | int | None
    end: str
    status: int = 200
    params: dict[str, Any] = field(default_factory=dict)
    logged: bool = True
    sees: Callable[[Seen], bool] = lambda seen: seen.names == WHOLE


def _code(code: str) -> Callable[[Seen], bool]:
    return lambda seen: json.loads(seen.body)["code"] == code


def _finished(status: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.finish["status"] == status


def _html(text: bytes) -> Callable[[Seen], bool]:
    return lambda seen: b"content-type: text/html" in seen.head and text in seen.body


_NOTHING = {"row": None, "end": "clean", "sees": lambda seen: True}
_LOST = {"end": "cut", "sees": lambda seen: seen.names == START}
CASES = [
    Case("status", None, "clean", 503, {"code": 503, "dify_code": "busy", "message": "be_back_soon"},
         sees=lambda seen: json.loads(seen.body) == {"code": "busy", "message": "be back soon", "status": 503}),
    Case("status", None, "clean", 500, {"body": "html", "retry_after": 7},
         sees=lambda seen: _html(b"error")(seen) and b"retry-after: 7" in seen.head),
    Case("too_many_400", None, "clean", 400, sees=_code("invalid_param")),
    Case("too_many_429", None, "clean", 429, {"retry_after": 3},
         sees=lambda seen: _code("too_many_requests")(seen) and b"retry-after: 3" in seen.head),
    Case("rate_limit_429", None, "clean", 429, sees=_code("rate_limit_error")),
    Case("edge_1015", None, "clean", 429, sees=_html(b"Error 1015")),
    Case("gateway_502_before", None, "clean", 502, sees=_html(b"502 Bad Gateway")),
    Case("html_200", None, "clean", 200, sees=_html(b"Please sign in")),
    Case("redirect", None, "clean", 307, {"location": "http://other/"},
         sees=lambda seen: b"location: http://other/" in seen.head),
    Case("reset_before", None, "cut", 0, sees=lambda seen: not seen.raw),
    Case("silent", None, "open", 0, sees=lambda seen: not seen.raw),
    Case("gateway_504", "succeeded", "clean", 504, sees=_html(b"504 Gateway Time-out")),
    Case("reset_after", "succeeded", "cut", 0, sees=lambda seen: not seen.raw),
    Case("cut_started", "succeeded", **_LOST),
    Case("cut_end", "succeeded", "cut", sees=lambda seen: seen.names == WHOLE[:-1]),
    Case("cut_at_byte", "succeeded", "cut", params={"n": 60}, sees=lambda seen: len(seen.body) == 60),
    Case("clean_eof_started", "succeeded", "clean", sees=lambda seen: seen.names == START),
    Case("eof_no_id", "succeeded", "clean", params={"delay_s": 0.02}, sees=lambda seen: seen.body == PING),
    Case("stall", "succeeded", "open", sees=lambda seen: seen.names == START),
    Case("drip", "succeeded", "open", sees=lambda seen: seen.names == START and seen.body.endswith(b":\n\n")),
    Case("drop_started", "succeeded", "clean", sees=lambda seen: "workflow_started" not in seen.names and
         seen.finish["status"] == "succeeded"),
    Case("hold_started", "succeeded", "clean", params={"seconds": HOLD},
         sees=lambda seen: seen.names == WHOLE and seen.chunks[0] == PING),
    Case("running_forever", "running", **_LOST),
    Case("lost_run", "running", logged=False, **_LOST),
    Case("detail_404_for", 404, "clean", params={"seconds": 30}),
    Case("error_event", "succeeded", "open", params={"code": "rate_limit", "status": 429, "message": "too_fast"},
         sees=lambda seen: {k: seen.events[-1][k] for k in ("event", "code", "status", "message")} ==
         {"event": "error", "code": "rate_limit", "status": 429, "message": "too fast"}),
    Case("run_failed", "failed", "clean", params={"message": "no_money"},
         sees=lambda seen: (seen.finish["error"], seen.finish["outputs"]) == ("no money", {})),
    Case("run_partial", "partial-succeeded", "clean", sees=_finished("partial-succeeded")),
    Case("run_stopped", "stopped", "clean", sees=_finished("stopped")),
    Case("run_paused", "paused", "clean", sees=lambda seen: seen.names[-1] == "workflow_paused"),
    Case("outputs", "succeeded", "clean", params={"value": '{"n":1e999}'},
         sees=lambda seen: b'"outputs":{"n":1e999}' in seen.body),
    Case("big_output", "succeeded", "clean", params={"bytes": 300_000},
         sees=lambda seen: len(seen.finish["outputs"]["text"]) == 300_000),
    Case("unknown_events", "succeeded", "clean", sees=lambda seen: seen.names == ["brand_new", *WHOLE] and
         b"\n\ndata: 17\n\n: comment\n\n" in seen.body),
    Case("foreign_events", "succeeded", "clean",
         sees=lambda seen: seen.names == ["workflow_started", *WHOLE] and
         seen.events[0]["workflow_run_id"] != seen.events[1]["workflow_run_id"]),
    Case("duplicate_finish", "succeeded", "clean", sees=lambda seen: seen.names.count("workflow_finished") == 2),
    Case("events_after_finish", "succeeded", "clean", sees=lambda seen: seen.names == WHOLE + START),
    Case("invalid_utf8", "succeeded", "clean", sees=lambda seen: b"\xff\xfe" in seen.body and
         seen.names[-1] == "workflow_finished"),
    Case("one_byte_chunks", "succeeded", "clean", sees=lambda seen: seen.names == WHOLE and
         {len(chunk) for chunk in seen.chunks} == {1}),
    Case("stop_ignored", "succeeded", "clean"),
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serve(FakeDify(celery_slots=0, hold_ms=0)) as serving:
        yield serving


def test_every_kind_has_a_case() -> None:
    assert {case.kind for case in CASES} == KINDS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
async def test_a_fault_on_the_wire_in_the_ledger_and_afterwards(case: Case, server: Serving) -> None:
    ledger = server.fake.ledger.runs
    before, user = len(ledger), f"u-{case.kind}"
    server.fake.faults.add(Fault(case.kind, params=dict(case.params)))
    seen = await ask(server, {"query": "q"}, user=user, patience=0.4 if case.end == "open" else 9)
    assert (seen.status, seen.end) == (case.status, case.end)
    assert case.sees(seen), seen
    async with desk(server) as look:
        if case.row is None:
            assert len(ledger) == before
            assert await look.logged(user) == []
            return
        run = (await look.until(lambda: _after(ledger, before)))[0]
        assert await look.detail(run.run_id) == case.row
        assert len(await look.logged(user)) == int(case.logged)
    assert (run.user, run.inputs, run.response_mode) == (user, {"query": "q"}, "streaming")
    assert run.status != "running"


async def _after(ledger: list[Any], count: int) -> list[Any]:
    """The runs of this test, once they have ended."""
    return [run for run in ledger[count:] if run.status != "running"]


async def test_a_fault_is_gone_after_its_times(server: Serving) -> None:
    server.fake.faults.add(Fault("html_200", times=2, after=1))
    kinds = [b"sign in" in (await ask(server, {"query": "q"})).body for _ in range(4)]
    assert kinds == [False, True, True, False]


async def test_a_fault_strikes_only_its_app_and_its_rows(server: Serving) -> None:
    server.fake.faults.add(Fault("reset_before", app="app-echo", match="row 2"))
    assert (await ask(server, {"query": "row 1"})).end == "clean"
    assert (await ask(server, {"product": "row 2"}, key="app-demo")).end == "clean"
    assert (await ask(server, {"query": "row 2"})).end == "cut"
    assert (await ask(server, {"query": "row 2"})).end == "clean"


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_fault_written_into_a_cell(server: Serving, *, streaming: bool) -> None:
    cell = f"[[fault:status code=502 times=2]] {streaming}"
    statuses = [(await ask(server, {"query": cell}, streaming=streaming)).status for _ in range(3)]
    assert statuses == [502, 502, 200]
    assert (await ask(server, {"query": cell + " another row"}, streaming=streaming)).status == 502


async def test_a_fault_in_a_cell_that_never_ends(server: Serving) -> None:
    statuses = {(await ask(server, {"query": "[[fault:too_many_429 times=-1]]"})).status for _ in range(4)}
    assert statuses == {429}


async def test_faults_over_http(server: Serving) -> None:
    async with desk(server) as look:
        assert await look.post("/_fake/faults", [{"kind": "run_failed", "params": {"message": "over_http"}}]) == (
            200,
            {},
        )
        assert (await ask(server, {"query": "q"})).finish["error"] == "over http"
        await look.post("/_fake/faults", [{"kind": "reset_before", "times": -1}])
        assert (await ask(server, {"query": "q"})).end == "cut"
        url = server.url.removesuffix("/v1")
        async with look._client.delete(f"{url}/_fake/faults") as response:
            assert response.status == 200
        assert (await ask(server, {"query": "q"})).end == "clean"


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no fault 'nope'; there are: big_output"):
        Fault("nope")


@pytest.mark.parametrize("kind", ["reset_after", "gateway_504"])
async def test_a_blocking_answer_is_lost_and_its_run_is_not(server: Serving, kind: str) -> None:
    server.fake.faults.add(Fault(kind))
    seen = await ask(server, {"query": "q"}, streaming=False, user=f"u-block-{kind}")
    assert seen.status in (0, 504)
    async with desk(server) as look:
        await look.until(lambda: _is(look, f"u-block-{kind}", "succeeded"))


async def _is(look: Desk, user: str, status: str) -> bool:
    return await look.logged(user) == [status]


async def test_a_detail_that_comes_late(server: Serving) -> None:
    server.fake.faults.add(Fault("detail_404_for", params={"seconds": 0.1}))
    await ask(server, {"query": "q"})
    run_id = server.fake.ledger.runs[-1].run_id
    async with desk(server) as look:
        assert await look.detail(run_id) == 404
        await look.until(lambda: _has(look, run_id, "succeeded"))


async def _has(look: Desk, run_id: str, status: str) -> bool:
    return await look.detail(run_id) == status


async def test_a_stop_that_is_ignored() -> None:
    with serve(FakeDify(hold_ms=0, latency_ms=150, celery_slots=0)) as serving:
        serving.fake.faults.add(Fault("stop_ignored"))
        async with desk(serving) as look:
            async with look._client.post(
                f"{serving.url}/workflows/run",
                json={"inputs": {"query": "q"}, "response_mode": "streaming", "user": "u"},
                headers={"Authorization": "Bearer app-echo"},
            ) as response:
                await look.until(lambda: _started(serving))
                run = serving.fake.ledger.runs[0]
                await look.post(f"/v1/workflows/tasks/{run.task_id}/stop", {"user": "u"})
                assert b'"status":"succeeded","outputs":{"query":"q"' in await response.read()
            assert await look.detail(run.run_id) == "succeeded"


async def _started(serving: Serving) -> bool:
    return bool(serving.fake.ledger.runs)


# ── settings, ledger, outages ───────────────────────────────────────────────────────────────────────────────────────


async def test_the_ledger_file_has_a_line_for_each_start_and_end(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    fake = FakeDify(celery_slots=0, hold_ms=0, ledger_path=path)
    with serve(fake) as serving:
        await ask(serving, {"product": "kettle"}, key="app-demo")
        async with desk(serving) as look:
            status, shown = await look.get("/../_fake/ledger")
    fake.ledger.close()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["event"], line["status"]) for line in lines] == [("started", "running"), ("finished", "succeeded")]
    assert {line["run_id"] for line in lines} == {fake.ledger.runs[0].run_id}
    assert lines[0]["inputs"] == {"product": "kettle"}
    assert lines[1]["tokens"] > 180
    assert "title" in lines[1]["outputs"]
    assert (status, shown[0]["run_id"]) == (200, lines[0]["run_id"])


async def test_settings_of_apps_over_http() -> None:
    with serve(FakeDify(celery_slots=0, hold_ms=0)) as serving:
        async with desk(serving) as look:
            old = serving.fake.apps["app-echo"].workflow_id
            await look.post("/_fake/settings", {"apps": {"app-echo": {"republish": True}}})
            new = (await ask(serving, {"query": "q"})).finish["workflow_id"]
            assert new == serving.fake.apps["app-echo"].workflow_id != old
            pinned = {"inputs": {"query": "q"}, "user": "u"}
            assert (await look.post(f"/v1/workflows/{old}/run", pinned))[1]["data"]["workflow_id"] == old

            await look.post("/_fake/settings", {"apps": {"app-echo": {"published": False}}})
            assert (await ask(serving, {"query": "q"})).status == 400
            assert (await look.get("/parameters"))[1]["code"] == "app_unavailable"
            await look.post("/_fake/settings", {"apps": {"app-echo": {"published": True, "enabled": False}}})
            assert (await look.get("/info"))[0] == 403


async def test_runs_take_the_latency_and_at_most_the_jitter() -> None:
    with serve(FakeDify(celery_slots=0, hold_ms=0, latency_ms=40, jitter_ms=40)) as serving:
        async with desk(serving) as look:
            times = [(await ask(serving, {"query": "q"})).finish["elapsed_time"] for _ in range(6)]
            await look.post("/_fake/settings", {"latency_ms": 0})
            quick = [(await ask(serving, {"query": "q"})).finish["elapsed_time"] for _ in range(3)]
    assert all(0.039 <= seconds < 0.2 for seconds in times)
    assert max(times) - min(times) > 0.001
    assert all(seconds < 0.1 for seconds in quick)


async def test_the_same_seed_fails_the_same_rows() -> None:
    first, second = [await _outcomes(seed=3) for _ in range(2)]
    assert first == second
    assert {"succeeded", "failed"} == set(first)


async def _outcomes(seed: int) -> list[str]:
    with serve(FakeDify(celery_slots=0, hold_ms=0, fail_rate=0.5, seed=seed)) as serving:
        return [(await ask(serving, {"query": "q"})).finish["status"] for _ in range(12)]


async def test_down_and_up_again_on_the_same_port() -> None:
    with serve(FakeDify(celery_slots=0, hold_ms=0)) as serving:
        await ask(serving, {"query": "before"})
        port = serving.port
        serving.stop()
        with pytest.raises(ConnectionRefusedError):
            await ask(serving, {"query": "down"})
        serving.start_again()
        assert serving.port == port
        assert (await ask(serving, {"query": "after"})).finish["status"] == "succeeded"
        async with desk(serving) as look:
            assert await look.logged("u") == ["succeeded", "succeeded"]
