"""The answers about an app: its description, its form, its site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowmill.testing.fake_dify.apps import FakeApp

NOT_FOUND_TEXT = (
    "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try "
    "again."
)
NOT_FOUND_PAGE = (
    f"<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n<p>{NOT_FOUND_TEXT}</p>\n"
).encode()
_LIMITS = {
    "image_file_size_limit": 10, "video_file_size_limit": 100, "audio_file_size_limit": 50, "file_size_limit": 15,
    "workflow_file_upload_limit": 10,
}  # fmt: skip
_METHODS = ["local_file", "remote_url"]
_FILE_UPLOAD: dict[str, Any] = {
    "enabled": False,
    "allowed_file_extensions": [],
    "allowed_file_types": ["image", "document"],
    "allowed_file_upload_methods": _METHODS,
    "number_limits": 3,
    "image": {"enabled": False, "number_limits": 3, "transfer_methods": _METHODS},
    "fileUploadConfig": {**_LIMITS, "batch_count_limit": 5},
}


def info(app: FakeApp) -> dict[str, Any]:
    known = {"name": app.name, "description": app.description, "tags": [], "mode": app.mode}
    return {**known, "author_name": "admin"}


def parameters(app: FakeApp) -> dict[str, Any]:
    off = {"enabled": False}
    switches = ("suggested_questions_after_answer", "speech_to_text", "annotation_reply", "more_like_this")
    return {
        "opening_statement": "",
        "suggested_questions": [],
        **dict.fromkeys(switches, off),
        "text_to_speech": {**off, "language": "", "voice": ""},
        "retriever_resource": {"enabled": True},
        "user_input_form": app.form,
        "sensitive_word_avoidance": off,
        "file_upload": _FILE_UPLOAD,
        "system_parameters": _LIMITS,
    }


def site(app: FakeApp) -> dict[str, Any]:
    empty = ("chat_color_theme", "description", "copyright", "privacy_policy", "icon_url")
    return {
        "title": app.name,
        **dict.fromkeys(empty),
        "chat_color_theme_inverted": False,
        "icon_type": "emoji",
        "icon": "\U0001f916",
        "icon_background": "#FFEAD5",
        "custom_disclaimer": "",
        "default_language": "en-US",
        "show_workflow_steps": True,
        "use_icon_as_answer_icon": False,
    }
