"""From a sheet to a checked batch: everything is read and checked before anything is sent."""

from __future__ import annotations

import base64
import hashlib
import secrets
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rowmill.domain.again import input_hash
from rowmill.domain.batch import BATCH_MOVES, BatchMove, BatchState, Settings
from rowmill.domain.cell import as_text
from rowmill.domain.checks import CheckedRow, CheckReport, RowCheck
from rowmill.domain.conversation import conversation_of
from rowmill.domain.errors import MappingError, RowmillError, SheetError, UsageError
from rowmill.domain.listing import Listing
from rowmill.domain.mapping import Mapping, make_mapping, same_columns
from rowmill.domain.problem import Problem, Severity
from rowmill.ports.store import AppRecord, BatchRecord, NewRow
from rowmill.ports.store_again import AppendedSheet
from rowmill.workbench.again import Known, Since, key_columns, look_back
from rowmill.workbench.stowage import Stowage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rowmill.domain.cell import Cell
    from rowmill.domain.errors import Param
    from rowmill.domain.form import Form
    from rowmill.ports.files import FileSource
    from rowmill.ports.sheets import OpenSheet, SheetHead, SheetRow
    from rowmill.workbench.tools import Tools


HEADERS_LOOKED_AT = 5
COLUMN_MISSING = ("required_not_mapped", "query_not_mapped", "column_unknown")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run. `rows`: first and last data row (1 = the first under the header), both included."""

    path: Path
    sheet_name: str | None = None
    columns: dict[str, str] | None = None
    """field -> column header or letter"""
    constants: dict[str, str] | None = None
    header_row: int | None = None
    rows: tuple[int, int | None] | None = None
    settings: Settings = field(default_factory=Settings)
    files: Path | None = None
    """folder or zip with the files that cells name"""
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


def read_head(tools: Tools, path: Path, sheet_name: str | None, header_row: int | None) -> SheetHead:
    """The top of a sheet. Raises SheetError."""
    sheet = tools.sheets.open(path, sheet_name, header_row=header_row)
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

    Raises SheetError, MappingError, or UsageError for `files`. With errors in the report, nothing of the batch is kept.
    """
    with ExitStack() as stack:
        opened = tools.sheets.open(order.path, order.sheet_name, header_row=order.header_row)
        sheet = stack.enter_context(closing(opened))
        source = stack.enter_context(closing(tools.open_files(order.files))) if order.files else None
        mapping = _map(order, form, sheet)
        batch = _batch(tools, order, app, form, mapping, sheet.head)
        columns = key_columns(order.since, sheet.head.headers)
        return _Filling(tools, batch, sheet.head, source, sink).fill(_pages(order, sheet), step, order.since, columns)


def append(
    tools: Tools, order: Order, batch: BatchRecord, sink: Callable[[Problem], None], step: Callable[[int], None]
) -> Draft:
    """Read, check and add the rows of another sheet behind those of a batch that is not running: all of them, or none
    if the report has errors. Columns are found by their headers; what feeds which field is as in the batch.

    Raises SheetError, MappingError, and UsageError for a batch that is running.
    """
    if batch.state not in BATCH_MOVES[BatchMove.APPEND]:
        raise UsageError("append_running", batch=batch.id)
    with ExitStack() as stack:
        opened = tools.sheets.open(order.path, order.sheet_name, header_row=order.header_row)
        sheet = stack.enter_context(closing(opened))
        source = stack.enter_context(closing(tools.open_files(order.files))) if order.files else None
        kept = same_columns(batch.headers, sheet.head.headers)
        mapping = batch.mapping.moved(kept)
        draft = replace(_batch(tools, order, batch.app, batch.form, mapping, sheet.head), settings=Settings())
        filling = _Filling(tools, draft, sheet.head, source, sink, kept)
        checked = filling.fill(_pages(order, sheet), step)
        if not checked.report.errors:
            filling.add_to(batch, order)
    return checked


def _map(order: Order, form: Form, sheet: OpenSheet) -> Mapping:
    head = sheet.head
    try:
        return _mapping(order, form, head.headers, head.stamp.columns if head.stamp else None)
    except MappingError as error:
        if error.code not in COLUMN_MISSING:
            raise
        hints: dict[str, Param] = {}
        if head.other_sheets:
            hints |= {"read_sheet": head.sheet_name, "other_sheets": head.other_sheets}
        if order.header_row is None and (row := _better_header(order, form, sheet)) is not None:
            hints["header_row"] = row
        raise MappingError(error.code, **error.params, **hints) from None


def _mapping(order: Order, form: Form, headers: Sequence[str], stamped: dict[str, str] | None) -> Mapping:
    return make_mapping(form, headers, asked=order.columns, constants=order.constants, stamped=stamped)


def _better_header(order: Order, form: Form, sheet: OpenSheet) -> int | None:
    """The number of a row near the top whose cells fit the form as headers: above it stands a title."""
    try:
        first = next(sheet.rows(), [])
    except SheetError:
        return None
    for row in first[:HEADERS_LOOKED_AT]:
        with suppress(MappingError):
            _mapping(order, form, [as_text(cell).strip() for cell in row.cells], None)
            return row.number
    return None


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


class _Filling:
    """A batch on its way into the store, with the files that its rows name. `kept`: the columns that are kept, if not
    all."""

    def __init__(
        self,
        tools: Tools,
        batch: BatchRecord,
        head: SheetHead,
        source: FileSource | None,
        sink: Callable[[Problem], None],
        kept: Sequence[int] | None = None,
    ) -> None:
        self._tools = tools
        self._batch = batch
        self._head = head
        self._sink = sink
        self._kept = kept
        self._report = CheckReport()
        listing = Listing(source.sizes, source.place) if source is not None else None
        self._check = RowCheck(batch.form, batch.mapping, head.headers, tools.schema_check, listing)
        self._stowage = Stowage(source, tools.shelf)

    def fill(
        self,
        pages: Iterator[list[tuple[int, SheetRow]]],
        step: Callable[[int], None],
        since: Since | None = None,
        columns: tuple[int, int] | None = None,
    ) -> Draft:
        """`columns`: where the key stands that rows are compared with those of `since` by."""
        store, report = self._tools.store, self._report
        for problem in [*_template_problems(self._batch.form, self._head), *self._check.constants()]:
            self._note(problem)
        store.add_batch(self._batch)
        try:
            for page in pages:
                store.add_rows(self._batch.id, [self._read(*placed) for placed in page])
                step(report.rows + report.blank)
            store.add_files(self._batch.id, self._stowage.files)
        except BaseException:
            self._drop()
            raise
        if report.rows == 0:
            self._drop()
            raise SheetError("sheet_no_rows")
        if report.errors:
            self._drop()
            return Draft(self._batch, self._head, report)
        return Draft(self._batch, self._head, report, look_back(store, self._batch, since, columns))

    def add_to(self, batch: BatchRecord, order: Order) -> None:
        """Behind the rows of a batch."""
        draft = self._batch
        label = order.path.name if order.sheet_name is None else f"{order.path.name}:{order.sheet_name}"
        sheet = AppendedSheet(0, 0, label, draft.sheet_path, draft.sheet_name, draft.sheet_digest)
        try:
            self._tools.store.append_rows(batch.id, draft.id, sheet)
        except BaseException:
            self._drop()
            raise

    def _read(self, position: int, row: SheetRow) -> NewRow:
        checked = self._check.check(row.number, row.cells)
        # Where nothing can be run any more nothing is copied either.
        if not self._report.errors and not any(p.severity is Severity.ERROR for p in checked.problems):
            checked = self._stow(checked, row.number)
        self._report.add_row(checked)
        for problem in checked.problems:
            self._sink(problem)
        own, talk = self._own(row.cells), conversation_of(checked.inputs)
        known_by = None if checked.blank else input_hash(checked.inputs)
        return NewRow(position, row.number, own, checked.inputs, checked.blank, talk, known_by)

    def _own(self, cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
        return cells if self._kept is None else tuple(cells[at] if at >= 0 else None for at in self._kept)

    def _stow(self, checked: CheckedRow, number: int) -> CheckedRow:
        inputs, troubles = self._stowage.stow(checked.inputs)
        found = [self._check.problem(finding, number, variable) for variable, finding in troubles]
        return replace(checked, inputs=inputs, problems=(*checked.problems, *found))

    def _note(self, problem: Problem) -> None:
        self._report.add(problem)
        self._sink(problem)

    def _drop(self) -> None:
        self._tools.store.drop_batch(self._batch.id)
        self._stowage.undo(self._tools.store)


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
