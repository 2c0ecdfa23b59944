"""The result of a check, on the screen and as a file."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rowmill.domain.problem import Problem, Severity
from rowmill.sheets.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TextIO

    from rowmill.cli.session import Session
    from rowmill.domain.checks import CheckReport

SHOWN = 20
SPANS = 8


class ProblemFile:
    """All problems as csv, made when the first one comes."""

    def __init__(self, session: Session, path: Path) -> None:
        self._session = session
        self.path = path
        self.used = False
        self._file: TextIO | None = None
        self._write: Callable[[list[Any]], Any] | None = None

    def add(self, problem: Problem) -> None:
        if self._write is None:
            self._open()
        assert self._write is not None
        say = self._session.say
        line = [
            problem.row,
            problem.letter,
            problem.column,
            problem.variable,
            say(f"severity.{problem.severity.value}"),
            say(f"problem.{problem.code}", **problem.params),
            self._session.repair_text(problem),
            problem.code,
        ]
        self._write([_harmless(cell) for cell in line])

    def _open(self) -> None:
        self.used = True
        self._file = self.path.open("w", encoding="utf-8-sig", newline="", errors="backslashreplace")
        self._write = csv.writer(self._file).writerow
        columns = ("row", "letter", "column", "field", "severity", "problem", "repair", "code")
        self._write([self._session.say(f"problems.{name}") for name in columns])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _harmless(cell: Any) -> Any:
    """Text that a spreadsheet would take for a formula is marked as text."""
    return guarded(cell) if isinstance(cell, str) else cell


@contextmanager
def problem_file(session: Session, path: Path) -> Iterator[ProblemFile]:
    """Removes what an earlier check left under the same name, so that the file always tells of this one."""
    path.unlink(missing_ok=True)
    file = ProblemFile(session, path)
    try:
        yield file
    finally:
        file.close()


def show_report(session: Session, report: CheckReport, file: ProblemFile) -> None:
    """Problems grouped by what repairs them, then the first of them one by one; warnings apart."""
    for severity in (Severity.ERROR, Severity.WARNING):
        if report.count(severity):
            _show(session, report, severity)
    if file.used:
        session.tell("problems_file", path=str(file.path))


def _show(session: Session, report: CheckReport, severity: Severity) -> None:
    count, bad = report.count(severity), report.bad_rows
    session.tell(f"problems_head.{severity.value}" + ("" if bad else "_set"), count=count, rows=bad)
    groups = [(repair, count) for repair, count in report.repairs.most_common() if repair.severity is severity]
    for repair, number in groups:
        example = report.examples[repair]
        place = repair.column or example.variable or session.say("whole_sheet")
        rows = _row_list(session, report.rows_of.get(repair, []), number)
        text = session.repair_text(example)
        session.tell("problem_group", count=number, column=place, repair=text, rows=rows)
    first = [problem for problem in report.first if problem.severity is severity]
    lines = _alike(first)[:SHOWN]
    for alike in lines:
        session.tell("problem_line", text=_line(session, alike))
    told = sum(map(len, lines))
    if count > told:
        session.tell("problems_more", count=count - told)


def _alike(problems: list[Problem]) -> list[list[Problem]]:
    """Problems that differ only in their row stand together."""
    groups: dict[object, list[Problem]] = {}
    for problem in problems:
        place = (problem.code, problem.letter, problem.variable, tuple(problem.params.items()))
        groups.setdefault(place, []).append(problem)
    return list(groups.values())


def _line(session: Session, alike: list[Problem]) -> str:
    first = alike[0]
    rows = [problem.row for problem in alike if problem.row is not None]
    if len(rows) < 2:  # noqa: PLR2004
        return session.problem_text(first)
    text = session.say(f"problem.{first.code}", **first.params)
    where = {"letter": first.letter, "column": first.column, "text": text}
    return session.say("problem_at_rows", rows=_spans(session, rows), **where)


def _spans(session: Session, rows: list[int]) -> str:
    """`2–301, 305`"""
    spans: list[tuple[int, int]] = []
    for row in rows:
        if spans and row == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], row)
        else:
            spans.append((row, row))
    texts = [str(first) if first == last else f"{first}–{last}" for first, last in spans]
    return session.say.listed(texts[:SPANS]) + (" …" if len(texts) > SPANS else "")


def _row_list(session: Session, rows: list[int], count: int) -> str:
    """` (rows 2, 3 …)`; nothing for what is wrong in no row."""
    if not rows:
        return ""
    shown = _spans(session, rows)
    more = " …" if count > len(rows) and not shown.endswith("…") else ""
    return session.say("problem_rows", count=count, rows=shown + more)


def report_json(session: Session, report: CheckReport, file: ProblemFile) -> dict[str, Any]:
    """The same for programs."""
    return {
        "errors": report.errors,
        "warnings": report.warnings,
        "bad_rows": report.bad_rows,
        "problems_file": str(file.path) if file.used else None,
        "problems": [
            {
                "code": p.code,
                "severity": p.severity.value,
                "row": p.row,
                "column": p.column,
                "letter": p.letter,
                "field": p.variable,
                "message": session.problem_text(p),
                "repair": session.repair_text(p),
            }
            for p in report.first
        ],
    }
