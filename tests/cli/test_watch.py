"""The live bar at every width, and its lines where nobody looks."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from rowmill.cli import watch
from rowmill.cli.session import Session
from rowmill.domain.batch import RowState
from rowmill.domain.progress import Counts, Speed
from rowmill.testing.fake_dify import Fault, Serving
from rowmill.texts import Speech
from tests.cli.calling import Caller
from tests.cli.test_run import sheet_of

COUNTS = Counts(
    {RowState.SUCCEEDED: 118, RowState.FAILED: 2, RowState.RUNNING: 4, RowState.PENDING: 176}, tokens=41_200
)


def fast() -> Speed:
    import asyncio

    speed, now = Speed(), asyncio.get_running_loop().time()
    speed.note(now - 30, 0)
    for second in range(29, 0, -1):
        speed.note(now - second, 4)
    return speed


@pytest.mark.parametrize("lang", ["en", "zh"])
async def test_parts_go_one_after_the_other(lang: str) -> None:
    session = Session(Speech(lang), {})
    whole = watch.progress_line(session, COUNTS, fast())
    parts = whole.split(" · ")
    assert parts[0] == "120/300"
    assert parts[-1] == ("41,200 tokens" if lang == "en" else "41,200 Tokens")
    assert len(parts) == 7
    for width in range(1, cell_len(whole) + 1):
        line = watch.progress_line(session, COUNTS, fast(), width=width)
        assert line == "120/300" or cell_len(line) <= width
        assert line.split(" · ") == parts[: len(line.split(" · "))]


async def test_both_ends_of_an_eta_alike_are_said_once() -> None:
    session = Session(Speech("en"), {})
    counts = Counts({RowState.SUCCEEDED: 9_999, RowState.PENDING: 1})
    assert watch.progress_line(session, counts, fast()).endswith("ETA 0 s")


@pytest.mark.parametrize("width", [28, 40, 60, 100])
def test_bar_is_one_line(
    rowmill: Caller, dify: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    screen = io.StringIO()
    made = Session

    def with_terminal(*args: object) -> Session:
        session = made(*args)  # type: ignore[arg-type]
        session.side = Console(file=screen, force_terminal=True, width=width, color_system=None, _environ={})
        return session

    monkeypatch.setattr("rowmill.cli.main.Session", with_terminal)
    assert rowmill("run", sheet_of(30), "--base-url", dify.url, "-o", "o.jsonl").code == 0
    drawn = [line for line in screen.getvalue().replace("\r", "\n").splitlines() if "30/30" in line]
    assert drawn
    assert all("━" in line and cell_len(line.strip("\x1b[2K")) <= width for line in drawn)


def test_lines_without_a_terminal(
    rowmill: Caller, dify: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_FOR_LINES_EVERY", 0.01)
    dify.fake.latency_ms = 5
    dify.fake.faults.add(Fault("run_failed", match="row 3", params={"message": "maximum_context_length"}))
    called = rowmill("run", sheet_of(80), "--base-url", dify.url, "-o", "o.jsonl", "--concurrency", "2")
    told = [line for line in called.err.splitlines() if "/80" in line]
    assert 4 <= len(told) <= 8, told
    assert any("1 failed" in line for line in told)


def test_words_stay_whole_at_a_terminal_and_so_do_commands() -> None:
    screen = io.StringIO()
    session = Session(Speech("en"), {})
    session.side = Console(file=screen, force_terminal=True, width=30, color_system=None, _environ={})
    session.tell("advice_line", advice="Retry later with a lower concurrency, or raise the limit.")
    session.tell("how_to_resume", batch="abcdefgh", options=" --data-dir /somewhere/else")
    *prose, command = screen.getvalue().splitlines()
    assert len(prose) > 1
    assert all(len(line) <= 30 for line in prose)
    assert "lower concurrency" in " ".join(" ".join(prose).split())
    assert command == "Go on with: rowmill run --resume abcdefgh --data-dir /somewhere/else"
