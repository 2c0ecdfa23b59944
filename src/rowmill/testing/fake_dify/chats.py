"""Conversations: which there are, and what was said in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rowmill.testing.fake_dify.runs import CHATS

if TYPE_CHECKING:
    from rowmill.testing.fake_dify.apps import FakeApp
    from rowmill.testing.fake_dify.runs import Run

# Flask adds its guess to what Dify says.
UNKNOWN = (
    "Conversation Not Exists. You have requested this URI [/v1/chat-messages] but did you mean /v1/chat-messages or "
    "/api/chat-messages or /v1/chat-messages/<string:task_id>/stop ?"
)
ENDED = ("succeeded", "partial-succeeded", "stopped")
ROOT_MESSAGE = "00000000-0000-0000-0000-000000000000"


class UnknownConversationError(LookupError):
    """404 not_found."""


class Chats:
    """The conversations of all chat apps, by id, as the runs that answered in them."""

    def __init__(self) -> None:
        self._said: dict[str, list[Run]] = {}

    def check(self, app: FakeApp, body: dict[str, Any]) -> None:
        """Raises UnknownConversationError for a conversation of somebody else, too."""
        known = body.get("conversation_id") if app.mode in CHATS else None
        if known and not self._of(app, str(body["user"]), known):
            raise UnknownConversationError(UNKNOWN)

    def join(self, run: Run, body: dict[str, Any]) -> None:
        if run.app.mode in CHATS and body.get("conversation_id"):
            run.conversation_id = body["conversation_id"]
            run.turn = len(self._said[run.conversation_id]) + 1

    def remember(self, run: Run) -> None:
        if run.app.mode in CHATS:
            self._said.setdefault(run.conversation_id, []).append(run)

    def forget(self, run: Run) -> None:
        self._said.pop(run.conversation_id, None)

    def _of(self, app: FakeApp, user: str, conversation: str) -> list[Run]:
        return [run for run in self._said.get(conversation, []) if run.app is app and run.user == user]

    def conversations(self, app: FakeApp, user: str, limit: int) -> dict[str, Any]:
        """`GET /conversations`, the one used last first."""
        mine = [said for said in self._said.values() if said[0].app is app and said[0].user == user]
        mine.sort(key=lambda said: -said[-1].began)
        return _page(mine, limit, _conversation)

    def messages(self, app: FakeApp, user: str, conversation: str, limit: int) -> dict[str, Any]:
        """`GET /messages`: the newest ones, oldest first. Raises UnknownConversationError."""
        said = self._of(app, user, conversation)
        if not said:
            raise UnknownConversationError("Conversation Not Exists.")
        return {**_page(said, limit, _message), "data": [_message(run) for run in said[-limit:]]}


def _page(items: list[Any], limit: int, shown: Any) -> dict[str, Any]:
    return {"limit": limit, "has_more": len(items) > limit, "data": [shown(item) for item in items[:limit]]}


def _conversation(said: list[Run]) -> dict[str, Any]:
    first, last = said[0], said[-1]
    times = {"created_at": int(first.began), "updated_at": int(last.began)}
    known = {"id": first.conversation_id, "name": first.query, "inputs": first.inputs}
    return {**known, "status": "normal", "introduction": "", **times}


def _message(run: Run) -> dict[str, Any]:
    return {
        "id": run.message_id,
        "conversation_id": run.conversation_id,
        "parent_message_id": ROOT_MESSAGE,
        "inputs": run.inputs,
        "query": run.query,
        "answer": run.outputs.get("answer", "") if run.saved and run.status in ENDED else "",
        "feedback": None,
        "retriever_resources": [],
        "created_at": int(run.began),
        "agent_thoughts": [],
        "message_files": [],
        "status": "error" if run.status == "failed" else "normal",
        "error": run.error,
        "extra_contents": [],
    }
