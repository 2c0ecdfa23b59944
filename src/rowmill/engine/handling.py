"""Which row is being worked on at this moment, step by step: what a process that dies hard leaves behind is the name of
the row that it died of, if it died of one (docs/design/pay-once.md)."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from rowmill.ports.sent import SentMarks

# So many processes that died while they handled one row are no chance any more.
MOST_DEATHS = 3

T = TypeVar("T")


@types.coroutine
def handled(sent: SentMarks, position: int, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await the work for one row. Each of its steps, from one wait to the next, stands under the row's mark; while it
    waits it does not: of a thousand rows in flight at most one is being handled when somebody kills the process."""
    step, given = work.send, None
    while True:
        sent.handle(position)
        try:
            wanted = step(given)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            sent.handle(None)
        try:
            step, given = work.send, (yield wanted)
        except BaseException as error:  # noqa: BLE001 -- handed on to whom it is meant for
            step, given = work.throw, error
