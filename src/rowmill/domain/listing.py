"""The names of the files in a folder or zip, and which of them a cell means."""

from __future__ import annotations

import difflib
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# Looking for near names compares with every name: only the first missing ones are worth it, as only they are shown.
MOST_HINTS = 200
COMPARED = 2000
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Found:
    """`path` of the one file that is meant. Without it: `rivals` that it could be, or `near` names of none."""

    path: str | None = None
    rivals: tuple[str, ...] = ()
    near: tuple[str, ...] = ()


class Listing:
    """`sizes`: relative path, with `/`, -> bytes. `place` is the folder or zip as messages name it.

    A cell means the file whose path it is; else the one whose path ends as the cell does, or the other way round (a zip
    has one more folder on top, a cell a whole `C:\\path`); else the same without regard to case, full-width letters and
    the two ways to write an accent. One that could mean two files means none: a wrong file costs as much as a right.
    """

    def __init__(self, sizes: Mapping[str, int], place: str) -> None:
        self.sizes = sizes
        self.place = place
        self._named = _grouped(sizes, _last)
        self._folded = _grouped(sizes, lambda path: fold(_last(path)))
        self._hints = MOST_HINTS

    def knows(self, wanted: str) -> bool:
        """Whether the text means a file, or several."""
        return bool(wanted) and self._candidates(tidy(wanted)) != []

    def find(self, wanted: str) -> Found:
        candidates = self._candidates(tidy(wanted))
        if len(candidates) == 1:
            return Found(candidates[0])
        return Found(rivals=tuple(candidates)) if candidates else Found(near=self._near(tidy(wanted)))

    def _candidates(self, wanted: str) -> list[str]:
        if wanted in self.sizes:
            return [wanted]
        exact = _fitting(wanted, self._named.get(_last(wanted), ()), str)
        return exact or _fitting(wanted, self._folded.get(fold(_last(wanted)), ()), fold)

    def _near(self, wanted: str) -> tuple[str, ...]:
        if self._hints <= 0:
            return ()
        self._hints -= 1
        names = list(self._folded)[:COMPARED]
        near = difflib.get_close_matches(fold(_last(wanted)), names, SHOWN, 0.6)
        return tuple(path for name in near for path in self._folded[name][:1])


def fold(name: str) -> str:
    """A name as people compare it."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def tidy(path: str) -> str:
    """A path as the listing writes it."""
    return path.strip().replace("\\", "/").removeprefix("./").lstrip("/")


def _last(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _grouped(paths: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


def _fitting(wanted: str, paths: Iterable[str], form: Callable[[str], str]) -> list[str]:
    """Of paths with the wanted last part those that end as it does; if there is none, the longest that it ends with."""
    whole = _parts(wanted, form)
    split = [(path, _parts(path, form)) for path in paths]
    longer = [path for path, parts in split if parts[-len(whole) :] == whole]
    if longer:
        return longer
    shorter = [(len(parts), path) for path, parts in split if whole[-len(parts) :] == parts]
    most = max((length for length, _ in shorter), default=0)
    return [path for length, path in shorter if length == most]


def _parts(path: str, form: Callable[[str], str]) -> list[str]:
    return [form(part) for part in path.split("/")]
