"""Family D of the fault matrix: what Dify itself does. Real sockets, a fake that plays it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rowmill.dify.client import DifyClient
from rowmill.domain.batch import RowState
from rowmill.testing.fake_dify import FakeDify, Fault, serve
from rowmill.testing.fake_dify.wire import Wire
from tests.faults import audit
from tests.faults.audit import Tally, size
from tests.faults.house import house, make_fake
from tests.faults.inside import Inside, inside, queries, texts_with
from tests.faults.processes import KEY, rowmill, until

pytestmark = pytest.mark.slow
OK = RowState.SUCCEEDED
ROWS = size(80, 2000)


async def run(folder: Path, texts: list[str], fake: FakeDify, **how) -> Inside:
    with serve(fake) as server:
        return await inside(folder, texts, fake, server.url, limit=500, **how)


# row of the matrix -> (what it is, faults in turn, states that every faulted row must come to)
ODD = {
    "D1": ("ids come late, the first event is missing", ["drop_started", "hold_started seconds=0.05"], {OK}),
    "D3": ("a run is not to be found at first", ["detail_404_for seconds=0.3"], {OK}),
    "D12": (
        "events twice, of another run, after the end",
        ["duplicate_finish", "foreign_events", "events_after_finish"],
        {OK},
    ),
    "D14": ("events that nobody knows", ["unknown_events"], {OK}),
}


@pytest.mark.parametrize("row", ODD)
async def test_D1_D3_D12_D14_odd_streams(tmp_path: Path, row: str) -> None:
    fault, kinds, states = ODD[row]
    fake = make_fake(latency_ms=20, jitter_ms=20)
    texts = texts_with(ROWS, *kinds)
    if row == "D3":
        texts = [text.replace("detail_404_for", "cut_started") if i % 4 == 1 else text for i, text in enumerate(texts)]
    ran = await run(tmp_path, texts, fake)
    counted = ran.tally(tried=ROWS // 2)
    counted.check()
    assert {each.state for each in ran.rows} == states
    assert len({each.run_id for each in ran.rows}) == ROWS, "each row has a run of its own"
    audit.note(row, fault, "sockets", counted)


async def test_D2_a_queue_longer_than_the_stream(tmp_path: Path) -> None:
    """One Celery slot, many in flight: streams end with pings alone, and the runs start later."""
    rows = size(60, 400)
    fake = make_fake(celery_slots=1, queue_idle_s=0.15, latency_ms=40, jitter_ms=0)
    ran = await run(tmp_path, queries(rows), fake, lost_window=500.0)
    counted = ran.tally(tried=ran.facts.count("lost"))
    counted.check()
    assert ran.states == {OK: rows}
    assert counted.tried >= rows // 4
    counted.own = {"streams that ended before their run": counted.tried, "unknown at the end": 0}
    audit.note("D2", "runs start after their stream has ended", "sockets", counted)


@pytest.mark.parametrize("kind", ["running_forever", "lost_run"])
async def test_D4_running_for_ever(tmp_path: Path, kind: str) -> None:
    fake, rows = make_fake(latency_ms=20), size(40, 400)
    texts = [f"[[fault:{kind} times=-1]] {i}" if i % 10 == 5 else f"row {i}" for i in range(rows)]
    ran = await run(tmp_path, texts, fake)
    faulted = rows // 10
    counted = ran.tally(tried=faulted)
    counted.check(unknown=faulted, blind=True)
    unknown = [row for row in ran.rows if row.state is RowState.UNKNOWN]
    assert {row.inputs["query"] for row in unknown} == {text for text in texts if "fault" in text}
    assert all(ran.runs_of(row.inputs["query"]) == 1 for row in unknown), "not sent again by itself"
    assert {row.cause for row in unknown} == {"run_never_ended"}
    counted.own = {"listed as unknown": len(unknown), "sent again": 0}
    audit.note("D4", f"a run that never ends ({kind})", "sockets", counted)


def test_D5_an_old_server_is_told_of(tmp_path: Path) -> None:
    """1.8 keeps nothing of a run whose client has gone: that is said before a row is sent."""
    for profile, warned in (("1.8", True), ("1.10", True), ("1.14", False)):
        with house(tmp_path / profile, 3, fake=make_fake(profile, hold_ms=2)) as place:
            asked = rowmill("doctor", "--base-url", place.url, cwd=place.folder)
            asked.wait()
            proc = rowmill(
                "run", "rows.csv", "--base-url", place.url, "--data-dir", place.data, "--yes", cwd=place.folder
            )
            assert proc.wait() == 0, proc.err
            for told in (asked.out + asked.err, proc.out + proc.err):
                assert ("shown as unknown" in told) is warned, told
                assert KEY not in told
    audit.note("D5", "an old server that keeps no run", "processes", Tally(tried=3, own={"warned": "2 of 2"}))


async def test_D6_waiting_for_a_person(tmp_path: Path) -> None:
    fake, rows = make_fake(latency_ms=20), size(40, 400)
    texts = [f"[[fault:run_paused]] {i}" if i % 4 == 1 else f"row {i}" for i in range(rows)]
    ran = await run(tmp_path, texts, fake)
    counted = ran.tally(tried=rows // 4)
    counted.check()
    waiting = [row for row in ran.rows if row.cause == "needs_person"]
    assert len(waiting) == rows // 4
    assert all(ran.runs_of(row.inputs["query"]) == 1 for row in waiting)
    assert ran.states[OK] == rows - len(waiting)
    counted.own = {"told to wait for a person": len(waiting)}
    audit.note("D6", "a run that waits for a person", "sockets", counted)


# ── D7, D9, D10: texts ──────────────────────────────────────────────────────────────────────────────────────────────

RAW = [
    "null", "{}", "[]", '"text"', "17", "[1,[2,[3]]]", '{"a":1.50,"b":12345678901234567890123,"c":1E5}',
    '{"b":1,"a":2,"b":3}', '{"t":"a\u2028b\u0085c\\u000bd"}', '{"nul":"\\u0000","half":"\\ud83d","half2":"\\ude00"}',
    '{"e":"\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467","z":"\\u00e9 \u00e9"}',
    '{"deep":' + "[" * 60 + "]" * 60 + "}",
]  # fmt: skip


@pytest.mark.parametrize("way", ["whole", "one byte at a time"])
async def test_D7_D9_outputs_stay_as_they_are(tmp_path: Path, way: str) -> None:
    """Byte for byte what Dify sent, in the store and in the exported lines."""
    fake = make_fake(latency_ms=5)
    texts = queries(len(RAW))
    if way == "one byte at a time":
        start = fake.execution._stream

        async def slowly(run, fault, wire):
            wire.one_byte = True
            await start(run, fault, wire)

        fake.execution._stream = slowly
    for text, raw in zip(texts, RAW, strict=True):
        fake.faults.add(Fault("outputs", match=f"'{text}'", params={"value": raw}))
    ran = await run(tmp_path, texts, fake)
    wanted = {text: "{}" if raw == "null" else raw for text, raw in zip(texts, RAW, strict=True)}
    wrong = [row.inputs["query"] for row in ran.rows if row.outputs != wanted[row.inputs["query"]]]
    assert wrong == []
    counted = ran.tally(tried=len(RAW))
    counted.check()
    counted.own = {"outputs that differ": len(wrong)}
    row = "D7" if way == "whole" else "D9"
    audit.note(row, f"strange outputs and texts, {way}", "sockets", counted)


async def test_D10_bytes_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, rows = make_fake(latency_ms=5), size(20, 200)
    write = Wire.write
    monkeypatch.setattr(Wire, "write", lambda self, data: write(self, data.replace(b"@bad@", b"\xff\xfe")))
    for i in range(0, rows, 2):
        fake.faults.add(Fault("outputs", match=f"'row {i + 1}'", params={"value": '{"text":"a@bad@b"}'}))
    ran = await run(tmp_path, queries(rows), fake)
    counted = ran.tally(tried=rows // 2)
    counted.check()
    assert ran.damaged() == rows // 2
    counted.own = {"flagged": f"{ran.damaged()} of {rows // 2}"}
    audit.note("D10", "bytes that are no UTF-8", "sockets", counted)


# ── D8, D11, D13 ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_D8_a_stop_that_stops_nothing(tmp_path: Path) -> None:
    """Dify says that it stops the run, and lets it go on: its result was paid for, and is kept."""
    fake, rows = make_fake(latency_ms=150, jitter_ms=0), 24
    fake.faults.add(Fault("stop_ignored", times=-1))
    asked = []

    async def stop_all() -> None:
        async with DifyClient(url, KEY) as client:
            while len(asked) < rows // 2 and sum(run_.status != "running" for run_ in fake.ledger.runs) < rows:
                for run_ in list(fake.ledger.runs):
                    if run_.status == "running" and run_.task_id not in asked:
                        await client.stop(run_.task_id, run_.user)
                        asked.append(run_.task_id)
                await asyncio.sleep(0.02)

    with serve(fake) as server:
        url = server.url
        ran = await inside(tmp_path, queries(rows), fake, url, meanwhile=stop_all)
    counted = ran.tally(tried=len(asked))
    counted.check()
    assert asked
    assert ran.states == {OK: rows}
    audit.note("D8", "a stop that Dify answers and does not obey", "sockets", counted)


def test_D11_large_outputs(tmp_path: Path) -> None:
    megabytes, width, rows = size(2, 10), size(25, 50), size(60, 300)
    fake = make_fake(latency_ms=50, jitter_ms=0)
    fake.faults.add(Fault("big_output", times=-1, params={"bytes": megabytes * 1_000_000}))
    with house(tmp_path, rows, fake=fake, width=width) as place:
        proc, peak = place.begin(), [0.0]
        until(lambda: peak.append(max(peak[-1], proc.peak_memory())) or not proc.running, timeout=900, every=0.02)
        counted = place.end(proc, tried=rows)
    assert peak[-1] <= 1024
    counted.own = {"peak memory, MB": round(peak[-1]), "outputs": f"{rows} x {megabytes} MB, {width} in flight"}
    audit.note("D11", "large outputs", "processes", counted)


async def test_D13_the_model_is_overloaded(tmp_path: Path) -> None:
    """Runs that fail with the provider's 429: paid for, and tried again as often as the user allowed, not more."""
    rows = size(200, 2000)
    fake = make_fake(latency_ms=10, jitter_ms=10, fail_rate=0.04, seed=13)
    ran = await run(tmp_path, queries(rows), fake, retries=1)
    counted = ran.tally(tried=sum(run_.status == "failed" for run_ in fake.ledger.runs))
    counted.check()
    per_row = max(ran.runs_of(text) for text in queries(rows))
    assert per_row <= 2
    failed = sum(run_.status == "failed" for run_ in fake.ledger.runs)
    counted.own = {
        "failed and billed per success": round(failed / ran.states[OK], 3),
        "runs of one row at most": per_row,
    }
    audit.note("D13", "4 % of the runs fail with the provider's rate limit", "sockets", counted)
