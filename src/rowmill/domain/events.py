"""Facts that happened while a batch ran, for whoever watches: a terminal, a log, a browser."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowmill.domain.errors import Param


class Fact(StrEnum):
    """Each is the text `event.<name>`."""

    RECOVERING = "recovering"
    """attempts of a former process are being looked into: `attempts`"""
    GATE = "gate"
    """nothing starts for `seconds`, because of `cause`"""
    SERVER_BACK = "server_back"
    RESTORED = "restored"
    """Dify's log has runs of the batch that the store does not know: is it an old copy?"""
    ADOPTED = "adopted"
    """… `runs` of them were found, and the results of `rows` taken over"""
    LOST = "lost"
    """the reply to row `row` was lost: it is being looked for"""
    FOUND = "found"
    """what became of row `row` is known now"""
    GAVE_UP = "gave_up"
    """row `row`: looked for in vain"""
    QUARANTINED = "quarantined"
    """row `row` has ended several processes: it is left alone"""
    PAUSING = "pausing"
    """no new rows, because of `cause`; `detail` is what the server said"""
    STORE_TROUBLE = "store_trouble"
    """results are kept in memory until the database takes them: `code`"""
    STORE_WELL = "store_well"
    FILE_LOST = "file_lost"
    """the file `name` that row `row` put out could not be fetched: `detail`"""
    REUSED = "reused"
    """`rows` take their results from the earlier batch `batch`: the version of the app is the same"""
    NOT_REUSED = "not_reused"
    """… `rows` are run instead: it is another version"""
    REPUBLISHED = "republished"
    """row `row` was run by another version than those before: from `old` to `new`. Told once for each version"""


@dataclass(frozen=True, slots=True)
class Event:
    fact: Fact
    params: dict[str, Param] = field(default_factory=dict)
