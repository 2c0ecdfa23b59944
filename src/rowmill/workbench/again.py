"""Rows and sheets that are not new: duplicates, and rows whose results an earlier batch has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rowmill.domain.errors import MappingError, UsageError
from rowmill.domain.mapping import find_column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowmill.domain.again import Reuse
    from rowmill.ports.store import AppRecord, BatchRecord, Store

_ALL = 10**9


@dataclass(frozen=True, slots=True)
class Since:
    """The earlier batch whose results unchanged rows take, and the column that names rows."""

    batch: BatchRecord
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What a draft's rows have in common with each other and with an earlier batch."""

    identical: int = 0
    """rows that have the inputs of a row before them"""
    follow: int = 0
    """those of them that take its result"""
    reuse: Reuse | None = None
    held: int = 0
    """rows that take their result when the first run tells that the app is still the same"""
    probe: bool = False
    """no row has to be run: one is, to learn that"""
    other_form: bool = False
    """the app's form is not the one of the earlier batch, so nothing is taken"""


def check_since(since: BatchRecord, app: AppRecord) -> None:
    """Raises UsageError for a batch of another app: Dify shows no id to tell apps by, so a new key of the same app is
    known by the app's name."""
    same = since.app.id == app.id or (
        (since.app.base_url, since.app.mode, since.app.name) == (app.base_url, app.mode, app.name)
    )
    if not same:
        raise UsageError("since_other_app", batch=since.id, app=since.app.name, found=app.name)


def key_columns(since: Since | None, headers: Sequence[str]) -> tuple[int, int] | None:
    """Where the key stands: in the earlier sheet, in this one. Raises MappingError and UsageError."""
    if since is None or since.key is None:
        return None
    here = find_column(headers, since.key)
    try:
        return find_column(since.batch.headers, headers[here] or since.key), here
    except MappingError:
        raise UsageError("since_without_key", batch=since.batch.id, column=headers[here]) from None


def look_back(store: Store, draft: BatchRecord, since: Since | None, columns: tuple[int, int] | None) -> Known:
    """Compare the rows of a draft: first with the earlier batch, then what is left with each other."""
    known = Known() if since is None else _compare(store, draft, since.batch, columns)
    identical = store.duplicates(draft.id)
    follow = store.find_leaders(draft.id) if draft.settings.share_duplicates and identical else 0
    return replace(known, identical=identical, follow=follow)


def _compare(store: Store, draft: BatchRecord, since: BatchRecord, columns: tuple[int, int] | None) -> Known:
    settings = draft.settings
    other_form = since.form.digest != draft.form.digest
    usable = settings.reuse_any_version or not other_form
    found = store.plan_reuse(draft.id, since.id, columns, usable=usable)
    pin = settings.pinned_workflow
    _until_none(lambda: store.take_results(draft.id, since.id, pin, any_version=settings.reuse_any_version))
    if pin is not None:
        _until_none(lambda: store.free_held(draft.id, _ALL))
    held, taken = store.reuse(draft.id)
    probe = held > 0 and not store.startable(draft.id, 0.0, -1, 1, None)
    if probe:
        store.free_held(draft.id, 1)
    freed = found.reused - held - taken
    found = replace(found, reused=held + taken, again=found.again + freed)
    return Known(reuse=found, held=held - probe, probe=probe, other_form=other_form and not usable)


def _until_none(act: Callable[[], int]) -> None:
    while act():
        pass
