"""Files that runs put out: fetched while their links live, and never in the way of a row."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from rowmill.dify.client import DifyClient
from rowmill.dify.versions import recovery
from rowmill.domain.batch import BatchState, RowState
from rowmill.domain.form import Mode
from rowmill.engine import downloads
from rowmill.engine.check import Check, Checked
from rowmill.testing.fake_dify import FakeDify, Fault
from tests.engine.filing import Bench, bench
from tests.engine.running import B

OK = RowState.SUCCEEDED
a_bench = contextmanager(bench)


@pytest.fixture
def desk(tmp_path: Path):
    yield from bench(tmp_path, "app-report")


def rows(count: int, **inputs: object) -> list[dict]:
    return [{"query": f"q{i}", **inputs} for i in range(count)]


def kept(desk: Bench) -> list[tuple[str, ...]]:
    return [tuple(file.error or file.name for file in row.files) for row in desk.rows]


def text_of(desk: Bench, position: int) -> str:
    sha256 = desk.rows[position].files[-1].sha256
    path = desk.shelf.path(sha256 or "")
    assert path is not None
    return path.read_text()


async def test_every_file_is_fetched(desk: Bench) -> None:
    desk.fill(rows(10, pages=2))
    ended, _ = await desk.run()
    assert ended is BatchState.COMPLETED
    assert kept(desk) == [("page 1.md", "page 2.md", "report.txt")] * 10
    assert text_of(desk, 3) == "report on q3\n"
    assert not any(download.authorized for download in desk.fake.links.downloads)


# fault -> how often it strikes, what is noted
CASES = {
    "download_cut": (2, "report.txt"),
    "download_status code=503": (2, "report.txt"),
    "download_status code=429": (1, "report.txt"),
    "download_status code=404": (-1, "http_404"),
    "download_page": (-1, "not_the_file"),
    "download_status code=500": (-1, "http_500"),
}


@pytest.mark.parametrize("text", CASES)
async def test_a_download_meets_a_fault(desk: Bench, text: str) -> None:
    times, noted = CASES[text]
    kind, *pairs = text.split()
    desk.fake.faults.add(Fault(kind, times, params=dict(pair.split("=") for pair in pairs)))
    desk.fill(rows(1))
    ended, _ = await desk.run()
    assert (ended, desk.rows[0].state) == (BatchState.COMPLETED, OK), "the row is fine whatever becomes of its file"
    assert kept(desk) == [(noted,)]
    assert ("file_lost" in desk.facts) is (noted != "report.txt")
    assert desk.store.count_output_files(B) == ((1, 0) if noted == "report.txt" else (0, 1))


async def test_a_dead_link_is_asked_once(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0, link_life_s=0.0)
    with a_bench(tmp_path, "app-report", fake) as desk:
        desk.fill(rows(3))
        await desk.run()
        assert kept(desk) == [("http_403",)] * 3
        assert len(fake.links.downloads) == 3


async def test_a_queue_that_is_too_long(desk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "LONGEST_QUEUE", -1e9)
    desk.fill(rows(2))
    await desk.run()
    assert kept(desk) == [("not_in_time",)] * 2
    assert desk.fake.links.downloads == []


async def test_bounds(desk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MOST_FILES", 2)
    monkeypatch.setattr(downloads, "LARGEST", 1000)
    desk.fill([{"query": "many", "pages": 3}, {"query": "large", "size": 5000}])
    await desk.run()
    # In the order of the outputs: the report first, then the pages.
    assert kept(desk) == [("page 1.md", "too_many_files", "too_many_files", "report.txt"), ("output_file_too_large",)]
    left = [path for path in (desk.folder / "files").iterdir() if path.name.endswith(".draft")]
    assert left == []


async def test_what_a_former_process_left_is_fetched(desk: Bench) -> None:
    desk.fill(rows(3))
    await desk.run(until=2, fetch=False)
    assert kept(desk) == [(), (), ()]
    await desk.run(until=2)
    assert kept(desk) == [("report.txt",), ("report.txt",), ()]
    await desk.run()
    assert kept(desk) == [("report.txt",)] * 3
    assert len(desk.fake.links.downloads) == 3, "none twice"


async def test_a_result_found_after_a_lost_reply_has_its_files_too(desk: Bench) -> None:
    desk.fake.faults.add(Fault("cut_started"))
    desk.fill(rows(1))
    await desk.run()
    assert (desk.rows[0].state, kept(desk)) == (OK, [("report.txt",)])


async def test_leaving_at_once_leaves_downloads_too(desk: Bench) -> None:
    desk.fake.faults.add(Fault("download_status", -1, params={"code": 503}))
    desk.fill(rows(1))
    running = asyncio.create_task(desk.run())
    while not desk.fake.links.downloads:
        await asyncio.sleep(0.005)
    assert desk.engine is not None
    desk.engine.abandon()
    await asyncio.wait_for(running, 5)
    assert desk.rows[0].state is OK


async def test_files_that_are_links_elsewhere_stay_there(desk: Bench) -> None:
    """Whatever outputs say, a link that is not Dify's own is nobody's to fetch."""
    file = {"dify_model_identity": "__dify__file__", "transfer_method": "remote_url", "url": f"{desk.serving.url}/info"}
    desk.fake.faults.add(Fault("outputs", params={"value": json.dumps({"f": file})}))
    desk.fill(rows(1))
    await desk.run()
    assert kept(desk) == [()]
    assert desk.fake.links.downloads == []


@pytest.mark.parametrize("url", ["http://169.254.169.254/files/x", "ftp://h/x", "relative", "http://[::1", "", None])
async def test_links_that_lead_nowhere(desk: Bench, url: str | None) -> None:
    file = {"dify_model_identity": "__dify__file__", "transfer_method": "tool_file", "url": url, "filename": "x.txt"}
    desk.fake.faults.add(Fault("outputs", params={"value": json.dumps({"f": file})}))
    desk.fill(rows(1))
    await desk.run()
    assert desk.rows[0].state is OK
    assert desk.store.count_output_files(B) == (0, 1)


async def test_a_result_that_is_found_by_a_later_look_has_its_files(desk: Bench) -> None:
    desk.fake.faults.add(Fault("running_forever", match="q1"))
    desk.fill(rows(2))
    await desk.run()
    lost = desk.rows[1]
    assert (lost.state, lost.files) == (RowState.UNKNOWN, ())
    desk.fake.execution._runs[str(lost.run_id)].status = "succeeded"
    async with DifyClient(desk.serving.url, desk.key) as app:
        known = recovery(desk.fake.profile.version, Mode.WORKFLOW)
        look = Check(desk.store, desk.store.take_over("check"), desk.clock, app, known, desk.shelf)
        assert await look.run(B) == Checked(looked=1, ended=1)
    assert (desk.rows[1].state, kept(desk)) == (OK, [("report.txt",)] * 2)
    assert text_of(desk, 1) == "report on q1\n"
