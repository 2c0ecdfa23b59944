"""`--pin`: all rows of a batch to one version of the app."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer

from rowmill.domain.errors import UsageError
from rowmill.domain.form import Mode
from rowmill.domain.versions import is_version, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowmill.cli.session import Session
    from rowmill.domain.batch import Settings
    from rowmill.ports.store import BatchRecord

_OPTION = "--pin"
FIRST = "first"
_VERSIONED = frozenset({Mode.WORKFLOW, Mode.CHATFLOW})

Pin = Annotated[str | None, typer.Option(_OPTION, metavar="[VERSION]", help="help.pin")]


def spell_out(args: Sequence[str]) -> list[str]:
    """`--pin` may stand alone, or before the id of a version: which of both is told by what follows."""
    spelled: list[str] = []
    for arg, following in pairwise([*args, ""]):
        if spelled and spelled[-1] == _OPTION:
            spelled[-1] = f"{_OPTION}={arg}"
        elif arg == _OPTION and not is_version(following):
            spelled.append(f"{_OPTION}={FIRST}")
        else:
            spelled.append(arg)
    return spelled


def check_pin(pin: str | None) -> None:
    """Raises UsageError before anything else is done."""
    if pin is not None and pin != FIRST and not is_version(pin):
        raise UsageError("pin_wrong", found=pin)


def pinned(settings: Settings, pin: str | None, mode: Mode) -> Settings:
    """The batch's settings with what was asked for. Raises UsageError where the app has no versions."""
    if pin is None:
        return settings
    if mode not in _VERSIONED:
        raise UsageError("pin_no_versions", mode=mode.value)
    if pin == FIRST:
        return replace(settings, pin_first=True, pinned_workflow=None)
    return replace(settings, pin_first=False, pinned_workflow=pin)


def pin_of(batch: BatchRecord) -> str | None:
    """The version that the batch is pinned to, as far as it is known; FIRST while its first run is to come."""
    if batch.settings.pinned_workflow is not None:
        return batch.settings.pinned_workflow
    return (batch.workflow_id or FIRST) if batch.settings.pin_first else None


def show_versions(session: Session, batch: BatchRecord, versions: list[tuple[str, int]]) -> None:
    """Which versions of the app ran the rows: one line, if any is known."""
    pin = pin_of(batch)
    if pin is not None:
        told = session.say("pin_first") if pin == FIRST else short(pin)
        session.show(session.say("pin_line", version=told))
    if len(versions) > 1:
        listed = ", ".join(
            session.say("version_rows", version=short(workflow_id), rows=f"{rows:,}") for workflow_id, rows in versions
        )
        session.show(session.say("versions_line", count=len(versions), versions=listed))
    elif versions and pin is None:
        session.show(session.say("version_line", version=short(versions[0][0])))


def versions_json(batch: BatchRecord, versions: list[tuple[str, int]]) -> dict[str, object]:
    """The same for programs."""
    return {
        "workflow_id": batch.workflow_id,
        "pin": pin_of(batch),
        "versions": [{"workflow_id": workflow_id, "rows": rows} for workflow_id, rows in versions],
    }
