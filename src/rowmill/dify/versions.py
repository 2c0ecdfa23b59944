"""What a server of a given version can do for us (sources: contract §0.2, §7; reliability.md §1.1; recordings)."""

from __future__ import annotations

import re

from rowmill.domain.form import Mode
from rowmill.ports.dify import Recovery

Version = tuple[int, int, int]

UNKNOWN_VERSION: Version = (0, 0, 0)

_LOG_BY_USER = (1, 5, 0)
_RUN_OUTLIVES_CLIENT = (1, 9, 2)
_LOG_AT_START = (1, 11, 0)
_STREAMING_IN_CELERY = (1, 13, 0)
_START_ERRORS_SHOWN = (1, 15, 0)
_DISCONNECT_ABORTS = (1, 17, 0)


def read_version(text: str | None) -> Version:
    """`1.14.2` -> (1, 14, 2); suffixes are ignored; (0, 0, 0) for what is no version."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text or "")
    if match is None:
        return UNKNOWN_VERSION
    major, minor, patch = match.groups(default="0")
    return int(major), int(minor), int(patch)


def recovery(version: str | None, mode: Mode) -> Recovery:
    """What can be found out about a run whose reply was lost.

    Only workflow apps are in the log that can be asked by user, and only from 1.13 on is its line certain to be there
    when a run starts: on 1.11 and 1.12 it was seen, but the thread that writes it can die with the connection.

    The answer of a chat is saved by whoever consumes its stream, when it is whole; so one that is found is right, and
    one that was cut is not saved. From 1.17 on a cut aborts a chat or agent, and what is left of its answer could be
    saved as if it were whole. Chatflows run in Celery from 1.13 on, and go on. Completion apps have no conversations.
    """
    known = read_version(version)
    streaming_runs = mode in (Mode.WORKFLOW, Mode.CHATFLOW)
    by_run_id = streaming_runs and known >= _RUN_OUTLIVES_CLIENT
    by_user = mode is Mode.WORKFLOW and known >= _LOG_BY_USER and by_run_id
    return Recovery(
        by_run_id=by_run_id,
        by_user=by_user and known >= _LOG_AT_START,
        from_start=by_user and known >= _STREAMING_IN_CELERY,
        by_message=mode.is_chat and known != UNKNOWN_VERSION and (mode is Mode.CHATFLOW or known < _DISCONNECT_ABORTS),
        silent_refusals=streaming_runs and _STREAMING_IN_CELERY <= known < _START_ERRORS_SHOWN,
    )
