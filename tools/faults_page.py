"""docs/reference/faults.md from docs/reference/faults.json: no figure in it is written by hand."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs/reference/faults.json"
PAGE = ROOT / "docs/reference/faults.md"

# Rows of the matrix that no test here tries, and why.
ELSEWHERE = {
    "B7": "Postgres restarts: there is no store on Postgres yet",
    "F1-F6": "files and exports: tests/sheets, tests/cli/test_results.py",
    "G4": "upgrade in mid-batch: there is no released version to upgrade from; B8 and A3 try its parts",
}

HEAD = """# Faults tried, and what became of them

Made by `make faults`; `make test` runs a shorter form of the same tests on every change. Each row of the fault matrix
is one test of `tests/faults/`, named by the row's id. After each fault both sides' books are compared: the ledger of the
fake Dify (what was started, and would be billed) and Rowmill's results.

- **lost**: rows without an end. **paid lost**: runs that succeeded and stand in no result. **paid twice**: runs beyond
  those that were meant. All three have to be 0, and no test passes otherwise.
- **unknown**: rows that Rowmill calls unknown because nobody can tell whether they ran, for a person to decide. After a
  `kill -9` between the mark and the first byte of a request, for instance, or on a server without a log to ask.
- **recovery**: seconds from the end of the fault until the batch goes on: median / longest.
"""


def merge(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per fault: figures of its parts (parameters, chunks) summed up."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in lines:
        place = (line["row"], line["fault"], line["how"])
        known = found.setdefault(place, {**dict.fromkeys(SUMMED, 0), "recovery": [], "own": {}, "parts": 0})
        known |= {name: line[name] for name in ("row", "fault", "how")}
        known["test"] = line["test"].partition("[")[0]
        known["parts"] += 1
        for name in SUMMED:
            known[name] += line[name]
        known["recovery"] += [round(seconds, 2) for seconds in line["recovery"]]
        known["own"] = _add_own(known["own"], line["own"])
    return [found[place] for place in sorted(found, key=_order)]


SUMMED = ("tried", "rows", "lost", "lost_paid", "double", "unknown", "paid_unknown")
_ADDED = ("seeds", "virtual hours", "seconds", "kills", "waits", "ended early", "acknowledged and lost")


def _add_own(known: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Counts are added, other figures of several parts: the worst."""
    merged = dict(known)
    for name, value in new.items():
        before = merged.get(name)
        if not isinstance(before, int | float) or not isinstance(value, int | float):
            merged[name] = value
        else:
            merged[name] = round(before + value, 1) if name in _ADDED else max(before, value)
    return merged


def _order(place: tuple[str, str, str]) -> tuple[str, int, str]:
    row, fault, how = place
    digits = "".join(sign for sign in row[1:] if sign.isdigit())
    return row[0], int(digits or 0), fault + how


def render(data: Mapping[str, Any]) -> str:
    """The page."""
    parts = [HEAD, _about(data), _table(data["rows"]), _sums(data["rows"]), _open(data), _elsewhere()]
    return "\n".join(parts).rstrip() + "\n"


def _about(data: Mapping[str, Any]) -> str:
    machine, tests = data["machine"], data["tests"]
    counts = ", ".join(f"{count} {name}" for name, count in tests.items() if count)
    when = f"Measured on {data['date']} at `{data['commit']}`, {data['form']} form, in {data['minutes']} minutes"
    return f"{when}: {counts}.\nMachine: {machine}.\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = (
        "row", "fault", "by", "faults tried", "rows", "lost", "paid lost", "paid twice", "unknown", "recovery, s",
        "the row's own figure",
    )  # fmt: skip
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        counts = [f"{row[name]:,}" for name in ("tried", "rows", "lost", "lost_paid", "double", "unknown")]
        own = "; ".join(f"{name}: {_shown(value)}" for name, value in row["own"].items())
        lines.append(_line([row["row"], row["fault"], row["how"], *counts, _recovery(row["recovery"]), own or "–"]))
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _recovery(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f} / {max(seconds):.1f}" if seconds else "–"


def _sums(rows: Sequence[Mapping[str, Any]]) -> str:
    total = {name: sum(row[name] for row in rows) for name in SUMMED}
    return (
        f"In all: {total['tried']:,} faults on {total['rows']:,} rows; {total['lost']} lost, {total['lost_paid']} paid "
        f"and lost, {total['double']} paid twice, {total['unknown']:,} unknown.\n"
    )


def _open(data: Mapping[str, Any]) -> str:
    """What is known not to hold: tests that are expected to fail, by their own reasons; and what failed."""
    lines = ["## Known not to hold yet", ""]
    lines += [f"- `{one['test']}`: {one['reason']}" for one in data["open"]] or ["Nothing."]
    if data["failed"]:
        lines += ["", "## Failed in this run", "", *(f"- `{name}`" for name in data["failed"])]
    return "\n".join(lines) + "\n"


def _elsewhere() -> str:
    return "\n".join(["## Rows that are not tried here", "", *(f"- {row}: {why}" for row, why in ELSEWHERE.items())])


def main() -> None:
    PAGE.write_text(render(json.loads(DATA.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
