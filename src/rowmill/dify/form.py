"""Dify's `user_input_form` -> our form (contract §2.2)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from rowmill.domain.form import CONVERSATION, QUERY, Field, FieldKind, FileSizes, Form, Mode

_KINDS = {kind.value for kind in FieldKind}
_QUESTION = Field(variable=QUERY, kind=FieldKind.PARAGRAPH, label="Query", required=True)
_TALK = Field(variable=CONVERSATION, kind=FieldKind.TEXT, label="Conversation")


def read_form(parameters: dict[str, Any], mode: Mode) -> Form:
    """The form of an app, in its order. A chat's question comes first, and what makes several rows the turns of one
    conversation comes last. Controls that the server fills by itself
    (external_data_tool) and kinds we do not know are left out, unless they are required: then the kind is text."""
    fields = [_QUESTION] if mode.is_chat else []
    for item in parameters.get("user_input_form") or []:
        fields.extend(_read_item(item))
    sizes = _read_sizes(parameters.get("system_parameters"))
    fields = [replace(field, sizes=sizes) if field.kind.is_file else field for field in fields]
    return Form((*fields, _TALK) if mode.is_chat else tuple(fields))


def _read_sizes(limits: Any) -> FileSizes | None:
    if not isinstance(limits, dict):
        return None
    return FileSizes(
        image=_positive(limits.get("image_file_size_limit")),
        video=_positive(limits.get("video_file_size_limit")),
        audio=_positive(limits.get("audio_file_size_limit")),
        other=_positive(limits.get("file_size_limit")),
    )


def _read_item(item: Any) -> list[Field]:
    if not isinstance(item, dict):
        return []
    fields = []
    for control, spec in item.items():
        if control == "external_data_tool" or not isinstance(spec, dict) or not spec.get("variable"):
            continue
        kind = control if control in _KINDS else str(spec.get("type"))
        if kind in _KINDS or spec.get("required"):
            fields.append(_read_field(FieldKind(kind) if kind in _KINDS else FieldKind.TEXT, spec))
    return fields


def _read_field(kind: FieldKind, spec: dict[str, Any]) -> Field:
    schema = spec.get("json_schema")
    return Field(
        variable=str(spec["variable"]),
        kind=kind,
        label=str(spec.get("label") or ""),
        required=bool(spec.get("required")),
        max_length=_positive(spec.get("max_length")),
        options=tuple(str(option) for option in spec.get("options") or ()) if kind is FieldKind.SELECT else (),
        default=spec.get("default"),
        hidden=bool(spec.get("hide")),
        hint=str(spec.get("hint") or spec.get("description") or spec.get("placeholder") or ""),
        file_types=_texts(spec.get("allowed_file_types")),
        file_extensions=_texts(spec.get("allowed_file_extensions")),
        upload_methods=_texts(spec.get("allowed_file_upload_methods")),
        json_schema=schema if isinstance(schema, str) or schema is None else json.dumps(schema),
    )


def _texts(items: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in items) if isinstance(items, list) else ()


def _positive(number: Any) -> int | None:
    """Dify writes "no limit" as null, 0 or not at all."""
    try:
        limit = int(number)
    except (TypeError, ValueError, OverflowError):
        return None
    return limit if limit > 0 else None
