"""File cells: links and names of files, as Dify's file objects, checked against what the field allows.

A named file is a placeholder in the row's inputs until its row is sent: Dify's file object needs the id of an upload,
and an upload belongs to one end user. See docs/design/files.md.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from rowmill.domain.form import Field, FieldKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.domain.errors import Param
    from rowmill.domain.listing import Listing

    Misfit = tuple[str, dict[str, Param]]
    File = dict[str, Any]

# Dify detects the kind of a file by these endings [graphon file/constants.py, api/constants/__init__.py].
KINDS = {
    "image": {"jpg", "jpeg", "png", "webp", "gif", "svg"},
    "video": {"mp4", "mov", "mpeg", "webm"},
    "audio": {"mp3", "m4a", "wav", "amr", "mpga"},
    "document": {
        "txt", "markdown", "md", "mdx", "pdf", "html", "htm", "xlsx", "xls", "vtt", "properties", "doc", "docx",
        "csv", "eml", "msg", "ppt", "pptx", "xml", "epub",
    },
}  # fmt: skip

# The key of a placeholder: SHA-256 of the file's bytes, once they are kept.
KEPT = "rowmill_file"
MEGABYTE = 1024 * 1024

_BETWEEN = re.compile(r"[\s|;,，；]+(?=https?://)|[\n|]+", re.IGNORECASE)
_BETWEEN_NAMES = re.compile(r"([,;，；、])")
# A name may hold separators itself, but not any number of them.
_LONGEST_NAME = 8
# A text that was mapped to a file field by mistake need not be complained about word by word.
_MOST_MISFITS = 20


def kind_of(ending: str) -> str | None:
    """image, video, audio or document by a file ending without its dot; None for any other."""
    return next((kind for kind, endings in KINDS.items() if ending.lower() in endings), None)


def read_files(
    spec: Field, entries: str | list[Any] | dict[str, Any], listing: Listing | None = None
) -> tuple[File | list[File] | None, list[Misfit]]:
    """One file object for a `file` field, a list of them for a `file-list`; or all that does not fit. `listing`: the
    files that may be named."""
    named = _split(entries, listing)
    files: list[File] = []
    misfits: list[Misfit] = []
    for entry in named:
        file, misfit = _read_entry(spec, entry, listing)
        files += [file] if file is not None else []
        misfits += [misfit] if misfit is not None else []
        if len(misfits) == _MOST_MISFITS:
            break
    misfits += _miscounted(spec, len(named))
    if misfits:
        return None, misfits
    return (files[0] if spec.kind is FieldKind.FILE else files), []


def _miscounted(spec: Field, found: int) -> list[Misfit]:
    if spec.kind is FieldKind.FILE:
        return [] if found == 1 else [("file_only_one", {"found": found})]
    if spec.max_length and found > spec.max_length:
        return [("file_too_many", {"limit": spec.max_length, "found": found})]
    return []


# ── several in one cell ─────────────────────────────────────────────────────────────────────────────────────────────


def _split(entries: str | list[Any] | dict[str, Any], listing: Listing | None) -> list[Any]:
    if not isinstance(entries, str):
        return entries if isinstance(entries, list) else [entries]
    if listing is not None and listing.knows(entries):
        return [entries.strip()]
    parts = [part.strip() for part in _BETWEEN.split(entries) if part.strip()]
    return parts if listing is None else [name for part in parts for name in _split_names(part, listing)]


def _split_names(part: str, listing: Listing) -> list[str]:
    """A link keeps its commas, unless names of files follow them."""
    if not _is_link(part):
        return _names(_BETWEEN_NAMES.split(part), listing)
    for mark in _BETWEEN_NAMES.finditer(part):
        names = _names(_BETWEEN_NAMES.split(part[mark.end() :]), listing)
        if names and all(map(listing.knows, names)):
            return [part[: mark.start()].strip(), *names]
    return [part]


def _names(pieces: list[str], listing: Listing) -> list[str]:
    """Pieces of text with the separators between them: a file whose name holds separators goes before its pieces."""
    names, start = [], 0
    while start < len(pieces):
        most = min(len(pieces), start + 2 * _LONGEST_NAME + 1)
        ends = [end for end in range(start + 1, most + 1, 2) if listing.knows("".join(pieces[start:end]))]
        end = max(ends, default=start + 1)
        names.append("".join(pieces[start:end]).strip())
        start = end + 1  # behind the separator
    return [name for name in names if name]


# ── one of them ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_entry(spec: Field, entry: Any, listing: Listing | None) -> tuple[File | None, Misfit | None]:
    if isinstance(entry, dict):
        entry = entry.get("url") or entry.get("remote_url") or entry.get("name") or ""
    if isinstance(entry, str):
        entry = entry.strip()
    if isinstance(entry, str) and _is_link(entry):
        return _read_link(spec, entry)
    if listing is None or not isinstance(entry, str) or not entry:
        return None, ("file_not_url", {"found": str(entry)[:60]})
    return _read_name(spec, entry, listing)


def _is_link(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.netloc)


def _read_link(spec: Field, link: str) -> tuple[File | None, Misfit | None]:
    if spec.upload_methods and "remote_url" not in spec.upload_methods:
        return None, ("file_links_refused", {})
    scheme, colon, rest = link.partition(":")
    url = scheme.lower() + colon + rest  # Dify knows a link by a small `http`
    ending = _ending(unquote(urlsplit(url).path))
    # Without an ending there is nothing to judge by: the server asks the link itself.
    kind = _kind(spec, ending) if ending else (spec.file_types[0] if spec.file_types else "document")
    if kind is None:
        return None, _kind_refused(spec, f".{ending}")
    return {"transfer_method": "remote_url", "url": url, "type": kind}, None


def _read_name(spec: Field, name: str, listing: Listing) -> tuple[File | None, Misfit | None]:
    if spec.upload_methods and "local_file" not in spec.upload_methods:
        return None, ("file_uploads_refused", {"found": name[:60]})
    found = listing.find(name)
    if found.path is None:
        return None, _not_found(name, found.rivals, found.near, listing.place)
    ending, size = _ending(found.path), listing.sizes[found.path]
    kind = _kind(spec, ending)
    if kind is None:
        return None, _kind_refused(spec, f".{ending}" if ending else found.path[-60:])
    limit = _limit(spec, ending)
    if limit is not None and size > limit * MEGABYTE:
        shown = math.ceil(10 * size / MEGABYTE) / 10
        return None, ("file_too_large", {"found": shown, "limit": limit, "name": found.path[-60:]})
    return {"transfer_method": "local_file", "type": kind, KEPT: "", "name": found.path, "size": size}, None


def _not_found(name: str, rivals: tuple[str, ...], near: tuple[str, ...], place: str) -> Misfit:
    known: dict[str, Param] = {"found": name[:120], "place": place}
    if rivals:
        return ("file_ambiguous", {**known, "near": ", ".join(rivals[:5]) + (" …" if len(rivals) > 5 else "")})  # noqa: PLR2004
    return ("file_missing_near", {**known, "near": ", ".join(near)}) if near else ("file_missing", known)


def _kind_refused(spec: Field, found: str) -> Misfit:
    return ("file_kind_refused", {"found": found, "allowed": spec.file_types})


def _kind(spec: Field, ending: str) -> str | None:
    """The kind that Dify will find the file to be, if the field takes it."""
    kind = kind_of(ending)
    if kind is not None and (not spec.file_types or kind in spec.file_types):
        return kind
    extensions = {extension.lstrip(".").lower() for extension in spec.file_extensions}
    return "custom" if "custom" in spec.file_types and ending in extensions else None


def _limit(spec: Field, ending: str) -> int | None:
    """Dify's limit goes by the ending, whatever the field says."""
    sizes = spec.sizes
    if sizes is None:
        return None
    return {"image": sizes.image, "video": sizes.video, "audio": sizes.audio}.get(kind_of(ending) or "", sizes.other)


def _ending(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[-1].lower() if "." in name else ""


# ── placeholders in a row's inputs ──────────────────────────────────────────────────────────────────────────────────


def is_placeholder(value: Any) -> bool:
    """Strictly: a JSON object of the user's own may hold any key."""
    if not isinstance(value, dict) or value.get("transfer_method") != "local_file":
        return False
    return all(isinstance(value.get(name), str) for name in (KEPT, "name", "type"))


def placeholders(inputs: dict[str, Any]) -> list[File]:
    """Those of all fields, in order."""
    values = [item for value in inputs.values() for item in (value if isinstance(value, list) else [value])]
    return [value for value in values if is_placeholder(value)]


def replaced(inputs: dict[str, Any], change: Callable[[File], File]) -> dict[str, Any]:
    """The inputs with each placeholder changed."""

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(item) for item in value]
        return change(value) if is_placeholder(value) else value

    return {name: changed(value) for name, value in inputs.items()}


def shown_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    """As results show them: by name, in a form that a sheet may hold again."""
    names = ("transfer_method", "type", "name")
    return replaced(inputs, lambda file: {name: file[name] for name in names if name in file})
