"""From a sheet to a checked batch: everything is read and checked before anything is sent."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rowmill.domain.again import input_hash
from rowmill.domain.batch import BATCH_MOVES, BatchMove, BatchState, Settings
from rowmill.domain.checks import CheckReport, RowCheck
from rowmill.domain.errors import RowmillError, SheetError, UsageError
from rowmill.domain.mapping import Mapping, make_mapping, same_columns
from rowmill.domain.problem import Problem, Severity
from rowmill.ports.store import AppendedSheet, AppRecord, BatchRecord, NewRow
from rowmill.workbench.again import Known, Since, key_columns, look_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rowmill.domain.form import Form
    from rowmill.ports.sheets import OpenSheet, SheetHead, SheetRow
    from rowmill.workbench.tools import Tools


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run. `rows`: first and last data row (1 = the first under the header), both included."""

    path: Path
    sheet_name: str | None = None
    columns: dict[str, str] | None = None
    """field -> column header or letter"""
    constants: dict[str, str] | None = None
    rows: tuple[int, int | None] | None = None
    settings: Settings = field(default_factory=Settings)
    since: Since | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A batch whose rows are stored and checked, not yet to be run. It is gone already when the report has errors."""

    batch: BatchRecord
    head: SheetHead
    report: CheckReport
    known: Known = field(default_factory=Known)

    @property
    def to_run(self) -> int:
        """How many rows will be run, if the app is still the one that an earlier batch met."""
        reused = self.known.reuse.reused - self.known.probe if self.known.reuse else 0
        return self.report.rows - self.known.follow - reused


def read_head(tools: Tools, path: Path, sheet_name: str | None) -> SheetHead:
    """The top of a sheet. Raises SheetError."""
    sheet = tools.sheets.open(path, sheet_name)
    try:
        return sheet.head
    finally:
        sheet.close()


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_draft(
    tools: Tools, order: Order, app: AppRecord, form: Form, sink: Callable[[Problem], None], step: Callable[[int], None]
) -> Draft:
    """Read, map, check and store all rows. `sink` gets every problem as it is found, `step` the number of rows read.

    Raises SheetError or MappingError. With errors in the report, nothing of the batch is kept.
    """
    sheet = tools.sheets.open(order.path, order.sheet_name)
    try:
        mapping = make_mapping(
            form,
            sheet.head.headers,
            asked=order.columns,
            constants=order.constants,
            stamped=sheet.head.stamp.columns if sheet.head.stamp else None,
        )
        batch = _batch(tools, order, app, form, mapping, sheet.head)
        columns = key_columns(order.since, sheet.head.headers)
        return _fill(tools, order, batch, sheet, sink, step, columns)
    finally:
        sheet.close()


def append(
    tools: Tools, order: Order, batch: BatchRecord, sink: Callable[[Problem], None], step: Callable[[int], None]
) -> Draft:
    """Read, check and add the rows of another sheet behind those of a batch that is not running: all of them, or none
    if the report has errors. Columns are found by their headers; what feeds which field is as in the batch.

    Raises SheetError, MappingError, and UsageError for a batch that is running.
    """
    if batch.state not in BATCH_MOVES[BatchMove.APPEND]:
        raise UsageError("append_running", batch=batch.id)
    sheet = tools.sheets.open(order.path, order.sheet_name)
    try:
        columns = same_columns(batch.headers, sheet.head.headers)
        draft = replace(
            _batch(tools, order, batch.app, batch.form, batch.mapping.moved(columns), sheet.head), settings=Settings()
        )
        checked = _fill(tools, order, draft, sheet, sink, step, None, columns)
    finally:
        sheet.close()
    if not checked.report.errors:
        _add(tools, order, batch, draft)
    return checked


def _add(tools: Tools, order: Order, batch: BatchRecord, draft: BatchRecord) -> None:
    label = order.path.name if order.sheet_name is None else f"{order.path.name}:{order.sheet_name}"
    added = AppendedSheet(0, 0, label, draft.sheet_path, draft.sheet_name, draft.sheet_digest)
    try:
        tools.store.append_rows(batch.id, draft.id, added)
    except BaseException:
        tools.store.drop_batch(draft.id)
        raise


def _batch(tools: Tools, order: Order, app: AppRecord, form: Form, mapping: Mapping, head: SheetHead) -> BatchRecord:
    return BatchRecord(
        id=base64.b32encode(secrets.token_bytes(5)).decode().lower(),
        app=app,
        form=form,
        mapping=mapping,
        settings=order.settings,
        state=BatchState.DRAFT,
        sheet_path=str(order.path.resolve()),
        sheet_name=head.sheet_name,
        sheet_digest=digest_of(order.path),
        headers=head.headers,
        created_at=tools.clock.wall(),
    )


def _fill(
    tools: Tools,
    order: Order,
    batch: BatchRecord,
    sheet: OpenSheet,
    sink: Callable[[Problem], None],
    step: Callable[[int], None],
    columns: tuple[int, int] | None,
    kept: Sequence[int] | None = None,
) -> Draft:
    """`columns`: where the key stands that rows are compared by; `kept`: the columns that are kept, if not all."""
    report = CheckReport()
    check = RowCheck(batch.form, batch.mapping, sheet.head.headers, tools.schema_check)
    for problem in [*_template_problems(batch.form, sheet.head), *check.constants()]:
        report.add(problem)
        sink(problem)
    tools.store.add_batch(batch)
    try:
        for page in _pages(order, sheet):
            new = [_check_row(check, report, sink, *placed) for placed in page]
            tools.store.add_rows(batch.id, new if kept is None else [_keep(row, kept) for row in new])
            step(report.rows + report.blank)
    except BaseException:
        tools.store.drop_batch(batch.id)
        raise
    if report.rows == 0:
        tools.store.drop_batch(batch.id)
        raise SheetError("sheet_no_rows")
    if report.errors:
        tools.store.drop_batch(batch.id)
        return Draft(batch, sheet.head, report)
    return Draft(batch, sheet.head, report, look_back(tools.store, batch, order.since, columns))


def _check_row(
    check: RowCheck, report: CheckReport, sink: Callable[[Problem], None], position: int, row: SheetRow
) -> NewRow:
    checked = check.check(row.number, row.cells)
    report.add_row(checked)
    for problem in checked.problems:
        sink(problem)
    known_by = None if checked.blank else input_hash(checked.inputs)
    return NewRow(position, row.number, row.cells, checked.inputs, checked.blank, known_by)


def _keep(row: NewRow, columns: Sequence[int]) -> NewRow:
    return replace(row, cells=tuple(row.cells[column] if column >= 0 else None for column in columns))


def _pages(order: Order, sheet: OpenSheet) -> Iterator[list[tuple[int, SheetRow]]]:
    """The rows that are asked for, with their positions in the batch."""
    first, last = order.rows or (1, None)
    index = 0
    for rows in sheet.rows():
        page = [(index + i - first + 1, row) for i, row in enumerate(rows)]
        yield [
            (position, row) for position, row in page if position >= 0 and (last is None or position <= last - first)
        ]
        index += len(rows)
        if last is not None and index >= last:
            return
    if order.rows is not None and index < first:
        raise SheetError("rows_beyond_end", first=first, rows=index)


def _template_problems(form: Form, head: SheetHead) -> list[Problem]:
    if head.stamp is None or head.stamp.form_digest == form.digest:
        return []
    return [Problem("template_stale", severity=Severity.WARNING)]


def accept(tools: Tools, draft: Draft) -> None:
    """The draft may be run. Raises if its check found errors."""
    if draft.report.errors:
        raise RowmillError("checks_failed", errors=draft.report.errors)
    tools.store.move_batch(draft.batch.id, BatchMove.CHECKED, at=tools.clock.wall())
