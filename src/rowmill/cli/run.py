"""`rowmill run` and `rowmill retry`: the main job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowmill.bootstrap import open_runner
from rowmill.cli import options
from rowmill.cli.again import AnyVersion, Asked, Key, Share, SinceBatch, known_json, show_known, taken_json
from rowmill.cli.asking import may_replace, may_run, may_run_again
from rowmill.cli.findings import ProblemFile, problem_file, report_json, show_report
from rowmill.cli.given import (
    amount,
    default_output,
    key_from,
    options_again,
    pairs,
    remembered_output,
    row_numbers,
    row_range,
    settings_for,
)
from rowmill.cli.pinning import Pin, check_pin, pinned, versions_json
from rowmill.cli.session import BAD_USE, INTERRUPTED, NOT_WRITTEN, OK, SOME_FAILED, Session
from rowmill.cli.summary import show_mapping, show_summary, summary_json
from rowmill.cli.watch import Watched, run_loop, watch
from rowmill.domain.batch import IDLE, UNFINISHED, BatchState, RowState, Settings
from rowmill.domain.causes import Cause
from rowmill.domain.errors import UsageError
from rowmill.ports.store import Again
from rowmill.workbench import Draft, Order, Workbench
from rowmill.workbench.again import check_since
from rowmill.workbench.apps import tidy_url
from rowmill.workbench.results import check_target

if TYPE_CHECKING:
    from rowmill.engine.batches import Engine
    from rowmill.ports.dify import AppInfo
    from rowmill.ports.sheets import SheetHead
    from rowmill.ports.store import AppRecord, BatchRecord, BatchSummary
    from rowmill.settings import Settings as AppSettings

Maps = Annotated[list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="help.map")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="help.set")]
Files = Annotated[Path | None, typer.Option("--files", metavar="FOLDER|ZIP", help="help.files")]
Rows = Annotated[str | None, typer.Option("--rows", metavar="1-20", help="help.rows")]
Sample = Annotated[int | None, typer.Option("--sample", metavar="N", min=1, help="help.sample")]
Resume = Annotated[str | None, typer.Option("--resume", metavar="BATCH", help="help.resume")]
New = Annotated[bool, typer.Option("--new", help="help.new")]
Sheet = Annotated[Path | None, typer.Argument(metavar="SHEET", help="help.sheet")]
RowNumbers = Annotated[list[str] | None, typer.Option("--row", metavar="3, 5-9", help="help.row")]
CauseName = Annotated[str | None, typer.Option("--cause", metavar="CAUSE", help="help.cause")]

# Why a batch pauses before anything was run: it was set up wrongly, so the exit says "bad configuration".
_SETUP_CAUSES = {
    Cause.BAD_KEY, Cause.FORBIDDEN, Cause.WRONG_MODE, Cause.UNPUBLISHED, Cause.VERSION_GONE, Cause.VERSION_REFUSED,
    Cause.NOT_DIFY, Cause.REDIRECTED, Cause.MODEL_SETUP, Cause.NOT_FOUND,
}  # fmt: skip


@dataclass(slots=True)
class Job:
    """One call of `run` or `retry`, with what every step of it needs."""

    session: Session
    settings: AppSettings
    workbench: Workbench
    engine: Engine
    key: str | None
    output: Path
    yes: bool
    sample: int | None = None
    named: bool = False
    """whether the output was named, and not found"""
    pin: str | None = None
    told: dict[str, object] = field(default_factory=dict)
    """what the check found, for the answer to programs"""


def run(
    context: typer.Context,
    sheet: Sheet = None,
    base_url: options.OptionalUrl = None,
    api_key: options.ApiKey = None,
    output: options.Output = None,
    sheet_name: options.SheetName = None,
    header_row: options.HeaderRow = None,
    maps: Maps = None,
    sets: Sets = None,
    concurrency: options.Concurrency = None,
    most: options.Most = None,
    per_minute: options.PerMinute = None,
    gap: options.Gap = None,
    response_mode: options.Mode = None,
    priority: options.Priority = None,
    max_failures: options.MaxFailures = None,
    max_tokens: options.MaxTokens = None,
    max_rows: options.MaxRows = None,
    max_price: options.MaxPrice = None,
    max_minutes: options.MaxMinutes = None,
    retries: options.Retries = None,
    files: Files = None,
    rows: Rows = None,
    sample: Sample = None,
    data_dir: options.DataDir = None,
    resume: Resume = None,
    new: New = False,
    pin: Pin = None,
    share: Share = False,
    since: SinceBatch = None,
    key_column: Key = None,
    any_version: AnyVersion = False,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    check_pin(pin)
    asked = Asked(share, since, key_column, any_version, resume is not None)
    settings = settings_for(session, data_dir)
    changes = _given(
        concurrency=concurrency,
        most=most,
        per_minute=per_minute,
        min_gap=gap,
        response_mode=None if response_mode is None else response_mode.value,
        priority=priority,
        max_failures=max_failures,
        max_tokens=max_tokens,
        max_rows=max_rows,
        max_price=amount(max_price),
        max_seconds=None if max_minutes is None else 60 * max_minutes,
        retries=retries,
    )
    target = output or (default_output(sheet) if sheet is not None and resume is None else None)
    if target is not None:
        check_target(target, sheet)
    if resume is None and (sheet is None or base_url is None):
        raise UsageError("sheet_argument_missing" if sheet is None else "url_missing")
    key = key_from(session, api_key, settings, needed=resume is None)
    with open_runner(settings) as (workbench, engine):
        if target is None:
            target = remembered_output(workbench.batches.find(resume or ""))
        job = Job(session, settings, workbench, engine, key, target, yes, sample, named=output is not None, pin=pin)
        if resume is not None:
            code = _resume(job, resume, sheet, base_url, changes)
        else:
            assert sheet is not None
            assert base_url is not None
            earlier = asked.find(workbench)
            order = Order(
                sheet,
                sheet_name,
                pairs("--map", maps),
                pairs("--set", sets),
                header_row,
                row_range(rows),
                asked.settings(replace(_batch_settings(settings, target), **changes), earlier),
                files,
                earlier,
            )
            code = _start(job, order, base_url, new=new)
    raise typer.Exit(code)


def retry(
    context: typer.Context,
    batch_id: options.BatchId,
    cause: CauseName = None,
    rows: RowNumbers = None,
    sets: Sets = None,
    api_key: options.ApiKey = None,
    output: options.Output = None,
    concurrency: options.Concurrency = None,
    data_dir: options.DataDir = None,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    settings = settings_for(session, data_dir)
    key = key_from(session, api_key, settings, needed=False)
    if output is not None:
        check_target(output)
    with open_runner(settings) as (workbench, engine):
        batch = workbench.batches.find(batch_id)
        target = output or remembered_output(batch)
        check_target(target, Path(batch.sheet_path))
        job = Job(session, settings, workbench, engine, key, target, yes)
        which = _which(job, batch, cause, rows, pairs("--set", sets))
        code = _retry(job, batch, which, _given(concurrency=concurrency))
    raise typer.Exit(code)


def _retry(job: Job, batch: BatchRecord, again: Again, changes: dict[str, Any]) -> int:
    session, batches = job.session, job.workbench.batches
    if not batches.retryable(batch.id, again):
        session.tell("retry_none", batch=batch.id)
        session.answer(_summary(job, batch, 0.0, None))
        counts = batches.counts(batch.id)
        return OK if counts.of(RowState.SUCCEEDED) == counts.total else SOME_FAILED
    if not may_replace(session, job.output, batch.settings.output, yes=job.yes):
        session.tell("nothing_sent")
        return OK
    batch = ready(job, batch)
    session.tell("retry_rows", count=batches.retry(batch, again), batch=batch.id)
    return _run_and_report(job, batches.find(batch.id), changes)


def _which(job: Job, batch: BatchRecord, cause: str | None, typed: list[str] | None, changes: dict[str, str]) -> Again:
    """Which rows are meant. Changed inputs are for one row: all others are run as they are."""
    batches = job.workbench.batches
    known = {name for name, _, _ in batches.causes(batch.id)}
    if cause is not None and cause not in known:
        raise UsageError("cause_unknown", cause=cause, known=tuple(sorted(known)) or "–")
    numbers = row_numbers(typed)
    if changes and len(numbers) != 1:
        raise UsageError("set_needs_row")
    if not numbers:
        return Again(cause)
    positions = batches.positions_of(batch, numbers)
    if changes and len(positions) > 1:
        raise UsageError("row_in_several_sheets", row=numbers[0], batch=batch.id)
    inputs = batches.edited_inputs(batch, positions[0], changes) if changes else None
    return Again(None, positions, inputs)


def _given(**values: Any) -> dict[str, Any]:
    """The settings of a batch that were named in the command line."""
    return {name: value for name, value in values.items() if value is not None}


def _batch_settings(settings: AppSettings, output: Path) -> Settings:
    return Settings(
        concurrency=settings.concurrency,
        most=settings.most,
        response_mode=settings.response_mode,
        retries=settings.retries,
        row_timeout=settings.row_timeout,
        lost_window=settings.lost_window,
        output=str(output.absolute()),
    )


# ── a new batch ─────────────────────────────────────────────────────────────────────────────────────────────────


def _start(job: Job, order: Order, base_url: str, *, new: bool) -> int:
    session, workbench = job.session, job.workbench
    head = workbench.read_head(order.path, order.sheet_name, order.header_row)
    assert job.key is not None
    app, info = run_loop(workbench.apps.register(base_url, job.key))
    _show_app(session, app, info)
    if order.since is not None:
        check_since(order.since.batch, app)
    order = replace(order, settings=pinned(order.settings, job.pin, app.mode))
    left = [] if new else workbench.batches.unfinished(app.id, workbench.digest(order.path), head.sheet_name)
    if left:
        return _offer_resume(job, left[0])
    if not (may_replace(session, job.output, None, yes=job.yes) and (new or _may_run_again(job, order, app, head))):
        session.tell("nothing_sent")
        return OK
    draft_or_code = _check(job, order, app, info)
    if isinstance(draft_or_code, int):
        return draft_or_code
    draft = draft_or_code
    job.told |= known_json(draft, order.since)
    asked = session.interactive and not job.yes
    if asked and not may_run(session, draft.to_run, app.name, job.sample):
        workbench.discard(draft)
        session.tell("nothing_sent")
        return OK
    return _run_and_report(job, workbench.accept(draft), {})


def _may_run_again(job: Job, order: Order, app: AppRecord, head: SheetHead) -> bool:
    if order.since is not None:
        return True  # that is known, and what has a result is not run again
    before = job.workbench.batches.finished(app, job.workbench.digest(order.path), head.sheet_name)
    return may_run_again(job.session, before, yes=job.yes)


def _show_app(session: Session, app: AppRecord, info: AppInfo) -> None:
    session.tell("app_found", app=app.name, mode=app.mode.value, version=info.version or "?", url=app.base_url)
    if not info.recovery.is_full:
        session.tell(guarantee_code(info))


def guarantee_code(info: AppInfo) -> str:
    """Which promise this server and app let us make."""
    recovery = info.recovery
    if recovery.is_full:
        return "guarantee.full"
    if recovery.by_user:
        return "guarantee.late"
    if recovery.by_message:
        return "guarantee.chatflow" if recovery.by_run_id else "guarantee.by_message"
    return "guarantee.by_id" if recovery.by_run_id else "guarantee.none"


def _offer_resume(job: Job, left: BatchSummary) -> int:
    session = job.session
    counts = left.counts
    if session.interactive and not job.yes:
        session.tell("unfinished", batch=left.id, done=counts.done, total=counts.total)
        if typer.confirm(session.say("ask_resume"), default=True):
            if not job.named:
                job.output = remembered_output(job.workbench.batches.find(left.id))
            return _resume(job, left.id, None, None, {})
        session.tell("resume_declined")
        session.tell("nothing_sent")
        return OK
    raise UsageError("unfinished_batch", batch=left.id, done=counts.done, total=counts.total)


def _check(job: Job, order: Order, app: AppRecord, info: AppInfo) -> Draft | int:
    """Read and check everything; the draft, or the exit code if it cannot be run."""
    session = job.session
    path = job.output.with_name(f"{job.output.stem}-problems.csv")
    with problem_file(session, path) as problems:
        draft = _draft(job, order, app, info, problems)
    if not session.json:
        show_mapping(session, draft)
        show_report(session, draft.report, problems)
        show_known(session, draft, order.since)
    if draft.report.errors:
        rows = draft.report.bad_rows
        code = "checks_failed" if rows else "checks_failed_set"
        error = UsageError(code, errors=draft.report.errors, rows=rows)
        session.fail(error, **(report_json(session, draft.report, problems) if session.json else {}))
        return BAD_USE
    return draft


def _draft(job: Job, order: Order, app: AppRecord, info: AppInfo, problems: ProblemFile) -> Draft:
    session = job.session
    if session.json or not session.side.is_terminal:
        return job.workbench.draft(order, app, info.form, problems.add, lambda _: None)
    with session.side.status(session.say("reading", rows=0)) as status:
        return job.workbench.draft(
            order, app, info.form, problems.add, lambda n: status.update(session.say("reading", rows=f"{n:,}"))
        )


# ── an old batch ────────────────────────────────────────────────────────────────────────────────────────────────


def _resume(job: Job, batch_id: str, sheet: Path | None, base_url: str | None, changes: dict[str, Any]) -> int:
    batch = job.workbench.batches.find(batch_id)
    check_target(job.output, Path(batch.sheet_path))
    if sheet is not None and sheet.exists() and job.workbench.digest(sheet) != batch.sheet_digest:
        raise UsageError("resume_other_sheet", batch=batch.id, sheet=batch.sheet_path, given=str(sheet))
    if base_url is not None and tidy_url(base_url) != batch.app.base_url:
        raise UsageError("resume_other_url", batch=batch.id, url=batch.app.base_url)
    if not may_replace(job.session, job.output, batch.settings.output, yes=job.yes):
        job.session.tell("nothing_sent")
        return OK
    counts = job.workbench.batches.counts(batch.id)
    if counts.asking or counts.of(RowState.UNKNOWN):
        batch = ready(job, batch)
        check_again(job, batch)
    if batch.state not in UNFINISHED | IDLE:
        job.session.tell("already_done", batch=batch.id, state=job.session.say(f"batch_state.{batch.state.value}"))
        return report(job, batch, None)
    if job.pin is not None:
        batch = job.workbench.batches.change(batch, pinned(batch.settings, job.pin, batch.app.mode))
    return _run_and_report(job, ready(job, batch), changes)


def check_again(job: Job, batch: BatchRecord) -> None:
    """Look once more at rows that are unknown or wait for a person: they may have ended meanwhile."""
    checked = run_loop(job.workbench.batches.check(job.engine, batch, api_key=job.key))
    job.session.tell("checked", looked=checked.looked, ended=checked.ended)


def ready(job: Job, batch: BatchRecord) -> BatchRecord:
    """The batch, once its app was seen to be there and its key to be good."""
    return run_loop(job.workbench.batches.refresh(batch, job.key))  # type: ignore[no-any-return]


# ── both ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _run_and_report(job: Job, batch: BatchRecord, changes: dict[str, Any]) -> int:
    """`changes` to the batch's settings hold for this call."""
    if changes:
        batch = replace(batch, settings=replace(batch.settings, **changes))
    if batch.state not in UNFINISHED | IDLE:
        return report(job, batch, None)
    until = job.workbench.batches.sample_end(batch.id, job.sample) if job.sample else None
    job.session.tell("batch_started", batch=batch.id)
    watched = run_loop(watch(job.session, job.workbench, job.engine, batch, api_key=job.key, until=until))
    if until is not None and _goes_on(job, batch, watched):
        watched = run_loop(watch(job.session, job.workbench, job.engine, batch, api_key=job.key))
    return report(job, batch, watched)


def _goes_on(job: Job, batch: BatchRecord, watched: Watched) -> bool:
    """After a sample: show what the rest would cost, and ask."""
    left = watched.counts.of(RowState.PENDING)
    done = watched.counts.done
    if watched.interrupted or watched.ending.cause is not None or not left or not done:
        return False
    tokens = round(watched.counts.tokens / done * left)
    job.session.tell(
        "sample_done",
        done=done,
        left=left,
        tokens=f"{tokens:,}",
        batch=batch.id,
        options=options_again(job.session, batch, job.output),
    )
    return job.session.interactive and not job.yes and typer.confirm(job.session.say("ask_rest", rows=left))


def _summary(job: Job, batch: BatchRecord, seconds: float, output: Path | None) -> dict[str, Any]:
    batches = job.workbench.batches
    prices, files = batches.prices(batch.id), batches.output_files(batch.id)
    more = versions_json(batch, batches.versions(batch.id)) | taken_json(job.workbench, batch) | job.told
    return {**summary_json(batch, batches.counts(batch.id), prices, files, seconds, output), **more}


def report(job: Job, batch: BatchRecord, watched: Watched | None) -> int:
    session, workbench = job.session, job.workbench
    batch = workbench.batches.find(batch.id)
    trouble = _export(job, batch)
    output = None if trouble else job.output
    counts = workbench.batches.counts(batch.id)
    seconds = watched.seconds if watched else 0.0
    summary = _summary(job, batch, seconds, output)
    if not session.json:
        show_summary(session, workbench, batch, output, seconds)
    if trouble is not None:
        session.fail(trouble, **summary)
        session.tell(
            "results_are_safe", folder=str(job.settings.data_dir), batch=batch.id, options=options_again(session, batch)
        )
        return NOT_WRITTEN
    session.answer(summary)
    return _exit_code(batch, watched, counts.of(RowState.SUCCEEDED), counts.total, counts.done, sample=bool(job.sample))


def _export(job: Job, batch: BatchRecord) -> UsageError | None:
    """Write the results file, or say why it could not be: the rows have run all the same."""
    try:
        job.workbench.export(batch, job.output, job.session.say.raw)
    except UsageError as error:
        return error
    return None


def _exit_code(
    batch: BatchRecord, watched: Watched | None, succeeded: int, total: int, done: int, *, sample: bool
) -> int:
    if watched is not None and watched.interrupted and batch.state is not BatchState.COMPLETED:
        return INTERRUPTED
    if watched is not None and done == 0 and watched.ending.cause in _SETUP_CAUSES:
        return BAD_USE
    if sample and batch.reason == "sample":
        return OK if succeeded == done else SOME_FAILED
    return OK if succeeded == total else SOME_FAILED
