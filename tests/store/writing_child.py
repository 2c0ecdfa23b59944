"""A process that writes until it is killed. Says on its standard output what is durable, after it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.ports.building import finish, intend

from rowmill.store.sql import open_store


def main(folder: str, start: int) -> None:
    store = open_store(Path(folder))
    fence = store.take_over("child")
    for first in range(start, 10**6, 5):
        group = range(first, first + 5)
        tell("intended", group, store.write([intend(p) for p in group], fence))
        tell("finished", group, store.write([finish(p) for p in group], fence))


def tell(what: str, positions: range, answers: list[bool]) -> None:
    said = "".join(f"{what} {p}\n" for p, took in zip(positions, answers, strict=True) if took)
    os.write(1, said.encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
