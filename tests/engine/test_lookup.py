"""What is certain enough to be called an attempt's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rowmill.domain.batch import AttemptState, Outcome, RunStatus
from rowmill.engine.lookup import MOST_UNKNOWN, SKEW, Lookup
from rowmill.ports.dify import Conversation, Said
from rowmill.ports.store import AttemptKey, OpenAttempt, RowJob

SENT_AT = 100_000.0
JOB = RowJob(0, {"sys.query": "hi", "sys.conversation": "k", "name": "bob"})
LOST = OpenAttempt(AttemptKey("b", 0, 1), AttemptState.UNKNOWN, "user", 0, SENT_AT, JOB)
DONE = Outcome(RunStatus.SUCCEEDED, '{"answer": "x"}')
OURS = Said("m1", "c1", "hi", SENT_AT, DONE, {"name": "bob"})


class Talks:
    """A user's conversations, and what our store knows of them."""

    def __init__(self, *said: Said, known: tuple[str, ...] = (), unsettled: int = 1, used_at: float = SENT_AT) -> None:
        self.said, self.known, self.open, self.used_at = said, known, unsettled, used_at

    async def conversations(self, user: str) -> list[Conversation]:
        assert user == "user"
        return [Conversation(place, self.used_at) for place in dict.fromkeys(m.conversation_id for m in self.said)]

    async def messages(self, conversation_id: str, user: str) -> list[Said]:
        assert user == "user"
        return [message for message in self.said if message.conversation_id == conversation_id]

    def known_talk(self, batch_id: str, user: str, ids: list[str]) -> set[str]:
        return set(self.known) & set(ids)

    def unsettled(self, batch_id: str, user: str) -> int:
        return self.open


async def here(call: Any, *args: Any) -> Any:
    return call(*args)


async def found(talks: Talks, lost: OpenAttempt = LOST) -> Said | None:
    return await Lookup(talks, talks, "b", here).message(lost)  # type: ignore[arg-type]


FOUND = {
    "alone": Talks(OURS),
    "not finished": Talks(replace(OURS, outcome=None)),
    "beside a known conversation": Talks(replace(OURS, message_id="m0", conversation_id="c0"), OURS, known=("c0",)),
    "beside another question": Talks(replace(OURS, message_id="m0", conversation_id="c0", query="other"), OURS),
    "beside other inputs": Talks(replace(OURS, message_id="m0", conversation_id="c0", inputs={"name": "eve"}), OURS),
    "inputs that Dify does not show": Talks(replace(OURS, inputs={})),
    "clocks that differ": Talks(replace(OURS, created_at=SENT_AT - SKEW), used_at=SENT_AT - SKEW),
}
NOT_FOUND = {
    "nothing": Talks(),
    "known": Talks(OURS, known=("m1",)),
    "another question": Talks(replace(OURS, query="HI")),
    "long ago": Talks(replace(OURS, created_at=SENT_AT - SKEW - 1)),
    "a conversation of long ago": Talks(OURS, used_at=SENT_AT - SKEW - 1),
    "two that could be it": Talks(OURS, replace(OURS, message_id="m2", conversation_id="c2")),
    "two in one conversation": Talks(OURS, replace(OURS, message_id="m2")),
    "another attempt is lost as well": Talks(OURS, unsettled=2),
    "too many that nobody knows": Talks(OURS, *[replace(OURS, conversation_id=f"{i}") for i in range(MOST_UNKNOWN)]),
}  # fmt: skip


@pytest.mark.parametrize("talks", FOUND.values(), ids=FOUND)
async def test_found(talks: Talks) -> None:
    said = await found(talks)
    assert said is not None
    assert said.message_id == "m1"


@pytest.mark.parametrize("talks", NOT_FOUND.values(), ids=NOT_FOUND)
async def test_not_certain_is_not_found(talks: Talks) -> None:
    assert await found(talks) is None


async def test_by_its_own_ids_nothing_else_matters() -> None:
    other = replace(OURS, query="other", created_at=0.0)
    named = replace(LOST, message_id="m1", conversation_id="c1")
    assert await found(Talks(other, known=("m1", "c1"), unsettled=9), named) == other
    assert await found(Talks(other), replace(named, message_id="m9")) is None
