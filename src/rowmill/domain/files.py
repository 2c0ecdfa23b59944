"""File cells: links to files, as Dify's file objects, checked against what the field allows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from rowmill.domain.form import Field, FieldKind

if TYPE_CHECKING:
    from rowmill.domain.errors import Param

    Misfit = tuple[str, dict[str, Param]]

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

_BETWEEN = re.compile(r"[\s|;,，；]+(?=https?://)|[\n|]+", re.IGNORECASE)


def kind_of(ending: str) -> str | None:
    """image, video, audio or document by a file ending without its dot; None for any other."""
    return next((kind for kind, endings in KINDS.items() if ending.lower() in endings), None)


def read_files(spec: Field, entries: str | list[Any] | dict[str, Any]) -> tuple[Any, Misfit | None]:
    """One file object for a `file` field, a list of them for a `file-list`; or what does not fit."""
    files = []
    for entry in _split(entries):
        file, misfit = _read_entry(spec, entry)
        if misfit is not None:
            return None, misfit
        files.append(file)
    if spec.kind is FieldKind.FILE:
        return (files[0], None) if len(files) == 1 else (None, ("file_only_one", {"found": len(files)}))
    if spec.max_length and len(files) > spec.max_length:
        return None, ("file_too_many", {"limit": spec.max_length, "found": len(files)})
    return files, None


def _split(entries: str | list[Any] | dict[str, Any]) -> list[Any]:
    if isinstance(entries, str):
        return [part.strip() for part in _BETWEEN.split(entries) if part.strip()]
    return entries if isinstance(entries, list) else [entries]


def _read_entry(spec: Field, entry: Any) -> tuple[dict[str, Any] | None, Misfit | None]:
    if isinstance(entry, dict):
        entry = entry.get("url") or entry.get("remote_url") or ""
    if isinstance(entry, str):
        entry = entry.strip()
    if not isinstance(entry, str) or not _is_link(entry):
        return None, ("file_not_url", {"found": str(entry)[:60]})
    if spec.upload_methods and "remote_url" not in spec.upload_methods:
        return None, ("file_links_refused", {})
    scheme, colon, rest = entry.partition(":")
    return _typed(spec, scheme.lower() + colon + rest)  # Dify knows a link by a small `http`


def _is_link(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.netloc)


def _typed(spec: Field, url: str) -> tuple[dict[str, Any] | None, Misfit | None]:
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    ending = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    kind = kind_of(ending)
    extensions = {extension.lstrip(".").lower() for extension in spec.file_extensions}
    if kind is None and not ending:
        # Nothing to judge by: the server asks the link itself.
        kind = spec.file_types[0] if spec.file_types else "document"
    elif (kind is None or (spec.file_types and kind not in spec.file_types)) and (
        "custom" in spec.file_types and ending in extensions
    ):
        kind = "custom"
    if kind is None or (spec.file_types and kind not in spec.file_types):
        return None, ("file_kind_refused", {"found": f".{ending}", "allowed": spec.file_types})
    return {"transfer_method": "remote_url", "url": url, "type": kind}, None
