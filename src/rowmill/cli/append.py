"""`rowmill append`: rows of another sheet behind the last row of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowmill.bootstrap import open_runner
from rowmill.cli import options
from rowmill.cli.findings import problem_file, report_json, show_report
from rowmill.cli.given import options_again, row_range, settings_for
from rowmill.cli.session import Session
from rowmill.cli.summary import counts_json
from rowmill.domain.errors import UsageError
from rowmill.workbench import Order, Workbench

if TYPE_CHECKING:
    from rowmill.ports.store import BatchRecord

AppendedFile = Annotated[Path, typer.Argument(metavar="SHEET", help="help.sheet")]
Rows = Annotated[str | None, typer.Option("--rows", metavar="1-20", help="help.rows")]
Files = Annotated[Path | None, typer.Option("--files", metavar="FOLDER|ZIP", help="help.files")]
Twice = Annotated[bool, typer.Option("--twice", help="help.twice")]


def append(
    context: typer.Context,
    batch_id: options.BatchId,
    sheet: AppendedFile,
    sheet_name: options.SheetName = None,
    header_row: options.HeaderRow = None,
    rows: Rows = None,
    files: Files = None,
    twice: Twice = False,
    data_dir: options.DataDir = None,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    order = Order(sheet, sheet_name, header_row=header_row, rows=row_range(rows), files=files)
    # Only the one runner of the data folder may: no other process can be running the batch then.
    with open_runner(settings_for(session, data_dir)) as (workbench, _):
        batch = workbench.batches.find(batch_id)
        if not twice and order.rows is None:
            _refuse_known(workbench, batch, order)
        _append(session, workbench, batch, order)


def _refuse_known(workbench: Workbench, batch: BatchRecord, order: Order) -> None:
    """The same sheet twice is most likely the same command twice, and would be paid for twice."""
    head = workbench.read_head(order.path, order.sheet_name, order.header_row)
    this = (workbench.digest(order.path), head.sheet_name)
    known = {(batch.sheet_digest, batch.sheet_name), *((one.digest, one.sheet_name) for one in batch.appended)}
    if this in known:
        raise UsageError("append_twice", batch=batch.id, sheet=str(order.path))


def _append(session: Session, workbench: Workbench, batch: BatchRecord, order: Order) -> None:
    with problem_file(session, Path(f"{order.path.stem}-problems.csv")) as problems:
        draft = workbench.append(order, batch, problems.add, lambda _: None)
    report = draft.report
    if not session.json:
        show_report(session, report, problems)
    if report.errors:
        error = UsageError("append_failed", errors=report.errors, rows=report.bad_rows)
        session.fail(error, **(report_json(session, report, problems) if session.json else {}))
        raise typer.Exit(2)
    counts = workbench.batches.counts(batch.id)
    state = workbench.batches.find(batch.id).state
    session.answer({"batch": batch.id, "state": state.value, "appended": report.rows, **counts_json(counts)})
    session.tell("appended", batch=batch.id, rows=f"{report.rows:,}", total=f"{counts.total:,}")
    session.show(session.say("how_to_resume", batch=batch.id, options=options_again(session, batch)))
