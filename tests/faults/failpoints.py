"""Places inside Rowmill at which a process can be made to die, where no system call names the moment."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from rowmill.dify.client import DifyClient
from rowmill.ports.store import Record
from rowmill.store.sql import SqlStore


def arm(spec: str) -> None:
    """`before_commit:Finish:3`: die before the third commit that holds a Finish; `after_commit` likewise;
    `poison:TEXT`: die when a row with this text is sent."""
    name, *rest = spec.split(":")
    {"before_commit": _before, "after_commit": _after, "poison": _poison}[name](*rest)


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
