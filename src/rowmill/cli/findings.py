"""The result of a check, on the screen and as a file."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rowmill.domain.problem import Problem, Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TextIO

    from rowmill.cli.session import Session
    from rowmill.domain.checks import CheckReport

SHOWN = 20
_DANGEROUS = tuple("=+-@\t\r＝＋－＠")


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
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_DANGEROUS) else cell


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
    session.tell(f"problems_head.{severity.value}", count=report.count(severity), rows=report.bad_rows)
    groups = [(repair, count) for repair, count in report.repairs.most_common() if repair.severity is severity]
    for repair, count in groups:
        example = report.examples[repair]
        place = repair.column or example.variable or session.say("whole_sheet")
        rows = _row_list(report.rows_of.get(repair, []), count)
        session.tell("problem_group", count=count, column=place, repair=session.repair_text(example), rows=rows)
    first = [problem for problem in report.first if problem.severity is severity][:SHOWN]
    for problem in first:
        session.tell("problem_line", text=session.problem_text(problem))
    if report.count(severity) > len(first):
        session.tell("problems_more", count=report.count(severity) - len(first))


def _row_list(rows: list[int], count: int) -> str:
    shown = ", ".join(str(row) for row in rows[:8])
    return f"{shown} …" if count > len(rows[:8]) else shown


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
