"""What is asked before anything is sent or replaced. Where nobody is there to answer, it is said and done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from rowmill.domain.batch import RowState

if TYPE_CHECKING:
    from pathlib import Path

    from rowmill.cli.session import Session
    from rowmill.ports.store import BatchSummary


def may_replace(session: Session, path: Path, own: str | None, *, yes: bool = False) -> bool:
    """Whether the results may be written to `path`. `own`: where this batch's results went before."""
    if not path.exists() or str(path.absolute()) == own:
        return True
    if session.interactive and not yes:
        return typer.confirm(session.say("ask_replace", path=str(path)), default=True)
    session.tell("replaced", path=str(path))
    return True


def may_run_again(session: Session, before: BatchSummary | None, *, yes: bool = False) -> bool:
    """Whether a sheet may be run although a batch has run it to its end."""
    if before is None:
        return True
    succeeded = before.counts.of(RowState.SUCCEEDED, RowState.PARTIAL)
    params = {"batch": before.id, "succeeded": succeeded, "total": before.counts.total}
    if session.interactive and not yes:
        session.tell("ran_before", **params)
        return typer.confirm(session.say("ask_again"), default=False)
    if yes:
        session.tell("ran_before", **params)
    else:
        session.warn("ran_before", **params)
    return True


def may_run(session: Session, rows: int, app: str, sample: int | None) -> bool:
    if sample is not None and sample < rows:
        return typer.confirm(session.say("ask_run_sample", sample=sample, rows=rows, app=app), default=True)
    return typer.confirm(session.say("ask_run", rows=rows, app=app), default=True)
