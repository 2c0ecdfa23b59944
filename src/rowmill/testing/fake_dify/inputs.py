"""How Dify judges inputs: the same rules, order and words (contract §4; recordings 05, 07, 12, 15)."""

from __future__ import annotations

import base64
import mimetypes
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.testing.fake_dify.apps import FakeApp

TRUE = ("true", "1", "yes", "on")
FALSE = ("false", "0", "no", "off")


class RefusedInputsError(ValueError):
    """400 invalid_param."""


class BrokenInputsError(TypeError):
    """What makes Dify answer 500."""


def read_inputs(
    app: FakeApp, sent: dict[str, Any], find_file: Callable[[str], dict[str, Any] | None]
) -> dict[str, Any]:
    """The values of all declared fields; the first one that does not fit is raised."""
    return {spec["variable"]: _read(kind, spec, sent.get(spec["variable"]), find_file) for kind, spec in app.fields()}


def _read(kind: str, spec: dict[str, Any], value: Any, find_file: Callable[[str], dict[str, Any] | None]) -> Any:
    name = spec["variable"]
    if value is None:
        if spec.get("required"):
            raise RefusedInputsError(f"{name} is required in input form")
        value = spec.get("default")
        if value is None:
            return None
    match kind:
        case "text-input" | "paragraph":
            return _text(kind, spec, value)
        case "select":
            return _select(spec, value)
        case "number":
            return _number(name, value)
        case "checkbox":
            return _checkbox(value)
        case "json_object" if value and not isinstance(value, dict):
            raise RefusedInputsError(f"{name} in input form must be a dict")
        case "file":
            return _file(spec, value, find_file)
        case "file-list":
            return _files(spec, value, find_file)
    return value


def _text(kind: str, spec: dict[str, Any], value: Any) -> str:
    name = spec["variable"]
    if not isinstance(value, str):
        raise RefusedInputsError(f"(type '{kind}') {name} in input form must be a string")
    if spec.get("max_length") and len(value) > spec["max_length"]:
        raise RefusedInputsError(f"{name} in input form must be less than {spec['max_length']} characters")
    return value.replace("\x00", "")


def _select(spec: dict[str, Any], value: Any) -> str:
    name, options = spec["variable"], spec["options"]
    if not isinstance(value, str):
        raise RefusedInputsError(f"(type 'select') {name} in input form must be a string")
    if value not in options:
        raise RefusedInputsError(f"{name} in input form must be one of the following: {options}")
    return value


def _number(name: str, value: Any) -> Any:
    if isinstance(value, (list, dict)):
        raise BrokenInputsError(name)
    if not isinstance(value, str):
        return value
    if not value:
        return None
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        raise RefusedInputsError(f"{name} in input form must be a valid number") from None


def _checkbox(value: Any) -> Any:
    word = value.strip().lower() if isinstance(value, str) else value
    if word in TRUE or word == 1:
        return True
    if word in FALSE or word == 0:
        return False
    return value


def _files(spec: dict[str, Any], value: Any, find_file: Callable[[str], dict[str, Any] | None]) -> Any:
    name = spec["variable"]
    if value == "":
        return None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RefusedInputsError(f"{name} in input form must be a list of files")
    if spec.get("max_length") and len(value) > spec["max_length"]:
        raise RefusedInputsError(f"{name} in input form must be less than {spec['max_length']} files")
    return [_file_object(spec, item, find_file) for item in value if item.get("transfer_method")]


def _file(spec: dict[str, Any], value: Any, find_file: Callable[[str], dict[str, Any] | None]) -> Any:
    if value == "" and not spec.get("required"):
        return None
    if not isinstance(value, dict):
        raise RefusedInputsError(f"{spec['variable']} in input form must be a file")
    return _file_object(spec, value, find_file)


def _file_object(
    spec: dict[str, Any], value: dict[str, Any], find_file: Callable[[str], dict[str, Any] | None]
) -> dict[str, Any]:
    match value.get("transfer_method"):
        case "local_file":
            known = _local(value, find_file)
            name, kind, size = known["name"], known["kind"], known["size"]
            if kind != value.get("type"):
                raise RefusedInputsError(
                    "Detected file type does not match the specified type. Please verify the file."
                )
            link = known.get("url", "")
        case "remote_url":
            link = str(value.get("url") or value.get("remote_url") or "")
            if not link.startswith("http"):
                raise RefusedInputsError("Invalid file url")
            name, kind, size = link.rsplit("/", 1)[-1], str(value.get("type") or "custom"), -1
        case _:
            raise RefusedInputsError("transfer_method is required in file mapping")
    if kind not in spec.get("allowed_file_types", [kind]):
        raise RefusedInputsError(f"File validation failed for file: {name}")
    remote = value["transfer_method"] == "remote_url"
    return {
        "dify_model_identity": "__dify__file__",
        "id": None,
        "type": kind,
        "transfer_method": value["transfer_method"],
        "remote_url": link if remote else "",
        "reference": None if remote else _reference(value["upload_file_id"]),
        "filename": name,
        "extension": "." + name.rsplit(".", 1)[-1],
        "mime_type": mimetypes.guess_type(name)[0] or "application/octet-stream",
        "size": size,
        "related_id": value.get("upload_file_id"),
        "url": link,
    }


def _reference(file_id: str) -> str:
    return "dify-file-ref:" + base64.b64encode(f'{{"record_id":"{file_id}"}}'.encode()).decode()


def _local(value: dict[str, Any], find_file: Callable[[str], dict[str, Any] | None]) -> dict[str, Any]:
    file_id = str(value.get("upload_file_id"))
    try:
        uuid.UUID(file_id)
    except ValueError:
        raise RefusedInputsError("Invalid upload file id format") from None
    known = find_file(file_id)
    if known is None:
        raise RefusedInputsError("Invalid upload file")
    return known
