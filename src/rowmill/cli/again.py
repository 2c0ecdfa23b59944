"""Rows that are not new, on the screen: duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rowmill.cli.session import Session
    from rowmill.ports.store import BatchRecord
    from rowmill.workbench import Draft, Workbench

Share = Annotated[bool, typer.Option("--share-duplicates", help="help.share_duplicates")]


def show_identical(session: Session, draft: Draft) -> None:
    """What sharing saves, or would save."""
    if draft.identical:
        code = "identical_shared" if draft.batch.settings.share_duplicates else "identical_rows"
        rows, left = draft.report.rows, draft.report.rows - draft.identical
        session.tell(code, count=f"{draft.identical:,}", rows=f"{rows:,}", left=f"{left:,}")


def show_shared(session: Session, workbench: Workbench, batch: BatchRecord) -> None:
    """How many of a batch's rows took, or will take, the result of another."""
    if batch.settings.share_duplicates and (count := workbench.batches.followers(batch.id)):
        session.show(session.say("shared_line", count=f"{count:,}"))


def again_json(workbench: Workbench, batch: BatchRecord) -> dict[str, object]:
    """The same for programs."""
    return {"shared": workbench.batches.followers(batch.id)} if batch.settings.share_duplicates else {}
