"""Rows that are not new, on the screen: duplicates, and rows whose results an earlier batch has."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from rowmill.domain.errors import UsageError
from rowmill.workbench import Since

if TYPE_CHECKING:
    from rowmill.cli.session import Session
    from rowmill.domain.again import Reuse
    from rowmill.domain.batch import Settings
    from rowmill.ports.store import BatchRecord
    from rowmill.workbench import Draft, Workbench

Share = Annotated[bool, typer.Option("--share-duplicates", help="help.share_duplicates")]
SinceBatch = Annotated[str | None, typer.Option("--since", metavar="BATCH", help="help.since")]
Key = Annotated[str | None, typer.Option("--key", metavar="COLUMN", help="help.key")]
AnyVersion = Annotated[bool, typer.Option("--reuse-any-version", help="help.reuse_any_version")]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed. Raises UsageError for options that say nothing without each other."""

    share: bool
    since: str | None
    key: str | None
    any_version: bool
    resume: bool

    def __post_init__(self) -> None:
        if self.since is None and (self.key is not None or self.any_version):
            raise UsageError("since_missing", option="--key" if self.key is not None else "--reuse-any-version")
        if self.resume and (self.since is not None or self.share):
            raise UsageError("since_resumed", option="--since" if self.since is not None else "--share-duplicates")

    def settings(self, settings: Settings, since: Since | None) -> Settings:
        return replace(
            settings,
            share_duplicates=self.share,
            since=since.batch.id if since else None,
            reuse_any_version=self.any_version,
        )

    def find(self, workbench: Workbench) -> Since | None:
        return Since(workbench.batches.find(self.since), self.key) if self.since is not None else None


def show_known(session: Session, draft: Draft, since: Since | None) -> None:
    """What is taken over, and what sharing saves or would save."""
    if since is not None and draft.known.reuse is not None:
        _show_reuse(session, draft, since, draft.known.reuse)
    if draft.known.identical and not draft.batch.settings.share_duplicates:
        count, rows = f"{draft.known.identical:,}", f"{draft.report.rows:,}"
        session.tell("identical_rows", count=count, rows=rows)
    elif draft.known.follow:
        count, rows = f"{draft.known.follow:,}", f"{draft.report.rows:,}"
        session.tell("identical_shared", count=count, rows=rows)
    if draft.to_run != draft.report.rows:
        session.tell("rows_to_run", count=f"{draft.to_run:,}")


def _show_reuse(session: Session, draft: Draft, since: Since, reuse: Reuse) -> None:
    numbers = {name: f"{number:,}" for name, number in asdict(reuse).items()}
    code = "since_rows" if since.key is None else "since_rows_by_key"
    session.tell(code, batch=since.batch.id, key=since.key, **numbers)
    if draft.known.other_form:
        session.tell("since_other_form", batch=since.batch.id)
    if draft.known.probe:
        session.tell("since_probe")
    elif draft.known.held:
        session.tell("since_if_same", rows=f"{draft.report.rows:,}")


def known_json(draft: Draft, since: Since | None) -> dict[str, object]:
    """The same for programs."""
    told: dict[str, object] = {"identical": draft.known.identical}
    if since is not None and draft.known.reuse is not None:
        told["since"] = {"batch": since.batch.id, **asdict(draft.known.reuse)}
    return told


def show_taken(session: Session, workbench: Workbench, batch: BatchRecord) -> None:
    """How many of a batch's rows took, or will take, the result of another."""
    if batch.settings.share_duplicates and (count := workbench.batches.followers(batch.id)):
        session.show(session.say("shared_line", count=f"{count:,}"))
    if batch.settings.since is not None:
        held, taken = workbench.batches.reuse(batch.id)
        if taken:
            session.show(session.say("reused_line", count=f"{taken:,}", batch=batch.settings.since))
        if held:
            session.show(session.say("held_line", count=f"{held:,}", batch=batch.settings.since))


def taken_json(workbench: Workbench, batch: BatchRecord) -> dict[str, object]:
    """The same for programs."""
    told: dict[str, object] = {}
    if batch.settings.share_duplicates:
        told["shared"] = workbench.batches.followers(batch.id)
    if batch.settings.since is not None:
        told["held"], told["reused"] = workbench.batches.reuse(batch.id)
    return told
