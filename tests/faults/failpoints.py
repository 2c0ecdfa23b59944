"""Places inside Rowmill at which a process can be made to die, where no system call names the moment."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from rowmill.dify import events as dify_events
from rowmill.dify.client import DifyClient
from rowmill.ports.store import Record
from rowmill.store.sql import SqlStore


def arm(spec: str) -> None:
    """`before_commit:Finish:3`: die before the third commit that holds a Finish; `after_commit` likewise;
    `poison:TEXT`: die when a row with this text is about to be sent; `poison_answer:TEXT`: when its answer is read."""
    name, *rest = spec.split(":")
    points = {"before_commit": _before, "after_commit": _after, "poison": _poison, "poison_answer": _poison_answer}
    points[name](*rest)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(kind: str, number: str) -> None:
    _around_write(kind, int(number), before=die)


def _after(kind: str, number: str) -> None:
    _around_write(kind, int(number), after=die)


def _around_write(
    kind: str, number: int, before: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None
) -> None:
    write, seen = SqlStore.write, 0

    def watched(self: SqlStore, records: Sequence[Record], fence: int) -> list[bool]:
        nonlocal seen
        matches = any(type(record).__name__ == kind for record in records)
        seen += matches
        if matches and seen == number:
            before()
        answers = write(self, records, fence)
        if matches and seen == number:
            after()
        return answers

    SqlStore.write = watched  # type: ignore[method-assign]


def _poison(text: str) -> None:
    run = DifyClient.run

    async def watched(self: DifyClient, request: Any, on_send: Any = None) -> AsyncGenerator[Any]:
        if text in str(request.inputs):
            die()
        async for event in run(self, request, on_send):
            yield event

    DifyClient.run = watched  # type: ignore[method-assign,assignment]


def _poison_answer(text: str) -> None:
    """Wherever the answer is read: in the stream, and when the run is found again."""
    read = dify_events._read_run

    def watched(data: Any, outputs: str | None, *rest: Any) -> Any:
        if text in str(outputs):
            die()
        return read(data, outputs, *rest)

    dify_events._read_run = watched
