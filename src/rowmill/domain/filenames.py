"""Names of files that come from outside, made harmless."""

from __future__ import annotations

import re
import unicodedata

# 255 bytes is what file systems take; the rest is room for a number and for the name of a draft.
LONGEST = 180
LONGEST_ENDING = 20
NAMELESS = "file"

# Also marks that turn the direction of writing around, so that `gpj.exe` reads as `exe.jpg`.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


def safe_name(name: str, *, otherwise: str = NAMELESS) -> str:
    """A name without a folder that every file system takes and no program reads as anything but a name."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    clean = _FORBIDDEN.sub("_", last).strip(" .")
    if not clean.strip("_"):
        return otherwise
    return shortened("_" + clean if _RESERVED.match(clean) else clean, LONGEST)


def shortened(name: str, most: int) -> str:
    """At most so many bytes of UTF-8; the ending stays."""
    stem, dot, ending = name.rpartition(".")
    if not stem or len((dot + ending).encode()) > LONGEST_ENDING:
        stem, dot, ending = name, "", ""
    room = most - len((dot + ending).encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(" .") + dot + ending


def distinct(names: list[str]) -> list[str]:
    """The same names; where two would be one file (on systems that do not tell case apart, too), with a number."""
    taken: set[str] = set()
    result = []
    for name in names:
        other, count = name, 1
        while other.casefold() in taken:
            count += 1
            stem, dot, ending = name.rpartition(".")
            other = f"{stem} ({count}).{ending}" if dot and stem else f"{name} ({count})"
        taken.add(other.casefold())
        result.append(other)
    return result
