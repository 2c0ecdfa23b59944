"""What every fault must leave behind: nothing lost, nothing paid twice, every row counted, no secret told.

The same audit measures: what it counted goes into docs/reference/faults.md when `make faults` asks for it.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowmill.domain.batch import RowState
from rowmill.domain.causes import Cause

if TYPE_CHECKING:
    from rowmill.testing.fake_dify.runs import LedgerRun

LONG = os.environ.get("FAULTS_FORM") == "long"
FIGURES = os.environ.get("FAULTS_FIGURES")
"""a folder for the measured figures"""

_OPEN = {state.value for state in RowState if not state.is_done}


def size(short: int, long: int) -> int:
    """How much of it: a little in `make test`, all of it in `make faults`."""
    return long if LONG else short


@dataclass
class Tally:
    """The figures of one test: summed up over its parts."""

    tried: int = 0
    """faults that struck"""
    rows: int = 0
    lost: int = 0
    """rows without an end"""
    lost_paid: int = 0
    """runs that succeeded and stand in no result"""
    double: int = 0
    """runs beyond those that were meant"""
    unknown: int = 0
    """rows that a person must decide about: nobody knows whether they ran"""
    paid_unknown: int = 0
    """… of which the ledger knows a success: a server without a log to ask cannot be told from one that never ran"""
    recovery: list[float] = field(default_factory=list)
    """seconds from the fault's end until the batch went on"""
    own: dict[str, Any] = field(default_factory=dict)
    """the row's own figure"""

    def add(self, other: Tally) -> Tally:
        for name in ("tried", "rows", "lost", "lost_paid", "double", "unknown", "paid_unknown"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.recovery += other.recovery
        return self

    def check(self, *, unknown: int | None = 0, blind: bool = False) -> None:
        """The zeros. `unknown` rows are allowed where a process can have died with its request half sent: None = any.
        `blind`: this server has no log in which a paid run could be found."""
        assert (self.lost, self.lost_paid, self.double) == (0, 0, 0), self
        assert unknown is None or self.unknown == unknown, self
        assert blind or self.paid_unknown == 0, self


def tally(runs: Iterable[LedgerRun], results: Iterable[Mapping[str, Any]], *, tried: int = 0) -> Tally:
    """From the fake's ledger and the results (objects with `query` in their inputs, a status, a run id). A paid run
    whose row is unknown is not lost: the row says that it may have been paid for."""
    rows = {str(row["inputs"]["query"]): row for row in results}
    by_row: dict[str, list[LedgerRun]] = defaultdict(list)
    for run in runs:
        by_row[str(run.inputs["query"])].append(run)
    counted = Tally(tried=tried, rows=len(rows))
    # Who waits for a person is told so, and may wait for days.
    counted.lost = sum(row["status"] in _OPEN and row.get("cause") != Cause.NEEDS_PERSON for row in rows.values())
    counted.unknown = sum(row["status"] == "unknown" for row in rows.values())
    for text, its_runs in by_row.items():
        row = rows.get(text)
        counted.double += doubles(its_runs)
        if row is None or not any(run.status == "succeeded" for run in its_runs):
            continue
        counted.paid_unknown += row["status"] == "unknown"
        counted.lost_paid += row["status"] not in ("succeeded", "unknown")
    return counted


def doubles(runs: list[LedgerRun]) -> int:
    """Runs of one row that were started although an earlier one had not failed."""
    return sum(any(earlier.status != "failed" for earlier in runs[:place]) for place in range(1, len(runs)))


def no_secret(secret: str, *texts: str, folder: Path | None = None) -> None:
    """Neither in what was printed nor in any file that was kept."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder is not None else []
    assert all(secret not in text for text in texts)
    assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []


def states_sum(counts: Mapping[str, Any], total: int) -> None:
    """The states of all rows add up. `counts` as `rowmill … --json` prints them."""
    names = [state.value for state in RowState if state is not RowState.SKIPPED]
    assert sum(counts[name] for name in names) == counts["total"] == total, counts


def note(row: str, fault: str, how: str, counted: Tally) -> None:
    """Keep the figures of one row of the matrix. `how`: by which means it was tried."""
    if FIGURES is None:
        return
    test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
    line = {"row": row, "fault": fault, "how": how, "test": test, "long": LONG, **asdict(counted)}
    with (Path(FIGURES) / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def most_common(texts: Iterable[str]) -> dict[str, int]:
    """Texts that stand more than once."""
    return {text: count for text, count in Counter(texts).items() if count > 1}
