"""Names of files as bytes, read as people meant them."""

from __future__ import annotations

import unicodedata

# What systems put beside the files of people.
_LITTER_FOLDERS = ("__macosx", ".git", ".svn")
_LITTER = (".ds_store", "thumbs.db", "desktop.ini")


def decoded(raw: bytes) -> str:
    """UTF-8; else GB18030 where that gives Chinese; else what DOS meant, in which every byte is a letter."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        pass
    try:
        chinese = raw.decode("gb18030")
    except UnicodeDecodeError:
        return raw.decode("cp437")
    return chinese if all(map(_is_asian, chinese)) else raw.decode("cp437")


def _is_asian(sign: str) -> bool:
    return sign.isascii() or unicodedata.east_asian_width(sign) in ("W", "F")


def is_litter(path: str) -> bool:
    parts = path.lower().split("/")
    return parts[-1] in _LITTER or parts[-1].startswith("._") or any(part in _LITTER_FOLDERS for part in parts[:-1])
