"""`rowmill pause`, `stop`, `resume`, `delete`: from any terminal, whichever process runs the batch."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowmill.bootstrap import is_run_by_somebody, open_runner, open_workbench
from rowmill.cli import options
from rowmill.cli.given import settings_for
from rowmill.cli.session import INTERRUPTED, OK, SOME_FAILED, Session
from rowmill.cli.summary import counts_json, show_summary
from rowmill.cli.watch import run_loop, watch_many
from rowmill.domain.batch import IDLE, UNFINISHED, BatchState, RowState
from rowmill.domain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowmill.engine.batches import Engine
    from rowmill.ports.store import BatchRecord
    from rowmill.settings import Settings
    from rowmill.workbench import Workbench

Hold = Annotated[bool, typer.Option("--hold", help="help.hold")]
Every = Annotated[bool, typer.Option("--all", help="help.all")]
Batches = Annotated[list[str] | None, typer.Argument(metavar="BATCH", help="help.batch")]

# How long a command waits to see that its wish came true; it comes true without it, too.
PATIENCE = 20.0
LOOK_EVERY = 0.2


def pause(
    context: typer.Context,
    batch_id: options.BatchId,
    hold: Hold = False,
    data_dir: options.DataDir = None,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    settings = settings_for(session, data_dir)
    with open_workbench(settings) as workbench:
        batch = workbench.batches.find(batch_id)
        workbench.batches.pause(batch, hold=hold)
        _settle(settings, workbench, batch)
        _report(session, workbench, batch.id)


def stop(
    context: typer.Context,
    batch_id: options.BatchId,
    data_dir: options.DataDir = None,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    settings = settings_for(session, data_dir)
    with open_workbench(settings) as workbench:
        batch = workbench.batches.find(batch_id)
        state = workbench.batches.stop(batch)
        alone = state is BatchState.STOPPING and not is_run_by_somebody(settings)
        if not alone:
            _settle(settings, workbench, batch)
    if alone:
        # A killed process left runs behind: they are stopped, and what has finished meanwhile is kept.
        with open_runner(settings) as (workbench, engine):
            run_loop(watch_many(session, workbench, engine, [workbench.batches.find(batch.id)]))
    with open_workbench(settings) as workbench:
        _report(session, workbench, batch.id)


def _settle(settings: Settings, workbench: Workbench, batch: BatchRecord) -> None:
    """Wait until whoever runs the batch has obeyed; where nobody runs it, lay it down here."""
    deadline = time.monotonic() + PATIENCE
    while workbench.batches.find(batch.id).state in (BatchState.PAUSING, BatchState.STOPPING):
        if not is_run_by_somebody(settings):
            workbench.batches.lay_down(batch)
            return
        if time.monotonic() > deadline:
            return
        time.sleep(LOOK_EVERY)


def _report(session: Session, workbench: Workbench, batch_id: str) -> None:
    batch = workbench.batches.find(batch_id)
    counts = workbench.batches.counts(batch.id)
    session.answer({"id": batch.id, "state": batch.state.value, "reason": batch.reason, **counts_json(counts)})
    if not session.json:
        show_summary(session, workbench, batch, None)


def resume(
    context: typer.Context,
    batch_ids: Batches = None,
    every: Every = False,
    data_dir: options.DataDir = None,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    if not batch_ids and not every:
        raise UsageError("resume_which")
    with open_runner(settings_for(session, data_dir)) as (workbench, engine):
        batches = [workbench.batches.find(batch_id) for batch_id in batch_ids or []]
        if every:
            batches = [workbench.batches.find(b.id) for b in workbench.batches.all() if b.state in UNFINISHED]
        code = _run_all(session, workbench, engine, batches)
    raise typer.Exit(code)


def _run_all(session: Session, workbench: Workbench, engine: Engine, batches: Sequence[BatchRecord]) -> int:
    over = [batch for batch in batches if batch.state not in UNFINISHED | IDLE]
    for batch in over:
        state = session.say(f"batch_state.{batch.state.value}")
        session.tell("already_done", batch=batch.id, state=state)

    async def ready() -> list[BatchRecord]:
        return list(await asyncio.gather(*(workbench.batches.refresh(b, None) for b in batches if b not in over)))

    interrupted = run_loop(watch_many(session, workbench, engine, run_loop(ready())))
    ended = [workbench.batches.find(batch.id) for batch in batches]
    counts = [workbench.batches.counts(batch.id) for batch in ended]
    session.answer(
        [
            {"id": b.id, "state": b.state.value, "reason": b.reason, **counts_json(c)}
            for b, c in zip(ended, counts, strict=True)
        ]
    )
    for batch in ended if not session.json else []:
        show_summary(session, workbench, batch, None)
    if interrupted:
        return INTERRUPTED
    return OK if all(c.of(RowState.SUCCEEDED) == c.total for c in counts) else SOME_FAILED


def delete(
    context: typer.Context,
    batch_id: options.BatchId,
    data_dir: options.DataDir = None,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    with open_workbench(settings_for(session, data_dir)) as workbench:
        batch = workbench.batches.find(batch_id)
        rows = workbench.batches.counts(batch.id).total
        name = Path(batch.sheet_path).name
        asked = session.say("ask_delete", batch=batch.id, sheet=name, rows=f"{rows:,}")
        if session.interactive and not yes and not typer.confirm(asked):
            session.tell("nothing_deleted")
            return
        if not session.interactive and not yes:
            raise UsageError("delete_needs_yes", batch=batch.id)
        workbench.batches.delete(batch)
    session.answer({"deleted": batch.id, "rows": rows})
    session.show(session.say("batch_deleted", batch=batch.id, rows=f"{rows:,}"))
