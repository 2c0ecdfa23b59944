"""Single looks at what became of an attempt: in Dify's log, among a user's conversations, at a run by its id.

Strict: what could be somebody else's is not found. Errors of the calls come out as DifyFailureError.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from rowmill.domain.form import QUERY, SIDE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rowmill.domain.batch import Outcome
    from rowmill.ports.dify import DifyApp, Said
    from rowmill.ports.store import OpenAttempt, Store

# How wrong the clocks may be, in seconds: what belongs to other attempts is known by its ids.
SKEW = 3600.0
# More conversations of one user that nobody knows are not one lost attempt's.
MOST_UNKNOWN = 10


class Doubt(Enum):
    """Something was found that may be the attempt's."""

    NOT_SHOWN = "not_shown"


@dataclass(frozen=True, slots=True)
class Lookup:
    """Looks for one batch's attempts. `in_thread` runs a blocking call of the store."""

    app: DifyApp
    store: Store
    batch_id: str
    in_thread: Callable[..., Awaitable[Any]]

    async def outcome(self, run_id: str) -> tuple[bool, Outcome | None]:
        """(whether Dify knows the run, how it ended)."""
        detail = await self.app.run_detail(run_id)
        if detail is None or detail.outcome is None:
            return detail is not None, None
        return True, replace(detail.outcome, run_id=run_id)

    # ── workflow apps: the log of the slot's user ───────────────────────────────────────────────────────────────

    async def run_id(self, lost: OpenAttempt) -> str | Doubt | None:
        """The id of the one run of this slot's user that no attempt has; in doubt where one cannot be seen in full yet:
        Dify writes a run's row later than its line in the log."""
        logged = await self.app.runs_of(lost.user, _since(lost))
        known = await self.in_thread(self.store.known_runs, self.batch_id, lost.user)
        doubt: Doubt | None = None
        for run in logged:
            if run.run_id in known or run.user not in (None, lost.user):
                continue
            detail = await self.app.run_detail(run.run_id)
            if detail is None:
                doubt = Doubt.NOT_SHOWN
            elif same_inputs(lost.job.inputs, detail.inputs):
                return run.run_id
        return doubt

    # ── chat apps: the conversations of the user ────────────────────────────────────────────────────────────────

    async def message(self, lost: OpenAttempt) -> Said | None:
        """The message that this attempt began, finished or not; None where it is not certain which one that is."""
        if lost.message_id is not None and lost.conversation_id is not None:
            said = await self.app.messages(lost.conversation_id, lost.user)
            return next((message for message in said if message.message_id == lost.message_id), None)
        if await self.in_thread(self.store.unsettled, self.batch_id, lost.user) > 1:
            return None  # another one is lost as well: either could be the other's
        found = [message for place in await self._places(lost) for message in await self._unknown(lost, place)]
        return found[0] if len(found) == 1 else None

    async def _places(self, lost: OpenAttempt) -> list[str]:
        """Conversations in which the message may stand."""
        if lost.job.continues is not None:
            return [lost.job.continues]
        recent = [one.conversation_id for one in await self.app.conversations(lost.user) if one.used_at >= _since(lost)]
        known = await self.in_thread(self.store.known_talk, self.batch_id, lost.user, recent)
        places = [place for place in recent if place not in known]
        return places if len(places) <= MOST_UNKNOWN else []

    async def _unknown(self, lost: OpenAttempt, conversation_id: str) -> list[Said]:
        said = await self.app.messages(conversation_id, lost.user)
        known = await self.in_thread(
            self.store.known_talk, self.batch_id, lost.user, [message.message_id for message in said]
        )
        return [message for message in said if message.message_id not in known and _asks_the_same(lost, message)]


def _since(lost: OpenAttempt) -> float:
    return lost.sent_at + lost.ahead - SKEW


def _asks_the_same(lost: OpenAttempt, said: Said) -> bool:
    return (
        said.query == lost.job.inputs.get(QUERY)
        and said.created_at >= _since(lost)
        and same_inputs(lost.job.inputs, said.inputs)
    )


def same_inputs(sent: dict[str, Any], seen: dict[str, Any]) -> bool:
    """Whether a run's inputs, as Dify shows them, are those of a row. What Dify may change (files, objects) is not
    compared; a run that shows no inputs is judged by its user alone."""
    plain = {k: v for k, v in sent.items() if isinstance(v, (str, int, float)) and k in seen and k not in SIDE_FIELDS}
    return all(_same(value, seen[key]) for key, value in plain.items())


def _same(ours: str | float, theirs: Any) -> bool:
    if isinstance(theirs, str) and isinstance(ours, str):
        return ours == theirs
    try:
        return float(ours) == float(theirs)
    except (TypeError, ValueError):
        return str(ours) == str(theirs)
