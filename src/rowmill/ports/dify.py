"""What the engine needs of one Dify app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from rowmill.domain.batch import Outcome
    from rowmill.domain.form import Form, Mode
    from rowmill.domain.outputs import FileLink


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a server's version lets us find out about a run whose reply was lost (docs/design/pay-once.md)."""

    by_run_id: bool
    """a run with a known id can be asked for, and its row is written without a listening client"""
    by_user: bool
    """the log look-up finds a run by its slot user, sooner or later"""
    from_start: bool
    """… and already from the moment the run starts"""
    by_message: bool = False
    """the answer of a chat can be found in the conversations of its user, once Dify has saved it"""
    silent_refusals: bool = False
    """in streaming mode, inputs that Dify refuses get silence instead of an error"""

    @property
    def is_full(self) -> bool:
        """Whatever gets lost is found."""
        return self.by_run_id and self.by_user and self.from_start


@dataclass(frozen=True, slots=True)
class AppInfo:
    """What a probe of an app found."""

    name: str
    mode: Mode
    version: str | None
    form: Form
    recovery: Recovery
    description: str = ""
    system_limits: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run to be started. `query` only for chat modes; `workflow_id` pins a published version."""

    inputs: dict[str, Any]
    user: str
    query: str | None = None
    conversation_id: str | None = None
    workflow_id: str | None = None
    streaming: bool = True


@dataclass(frozen=True, slots=True)
class Opened:
    """Dify took the request. `ahead` = the server's clock minus ours, in seconds, where it sent a Date."""

    ahead: float | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    """The first event that carried ids. Chat apps without a workflow have a message id and no run id."""

    run_id: str | None
    task_id: str | None
    workflow_id: str | None = None
    message_id: str | None = None
    conversation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The run's end."""

    outcome: Outcome


RunEvent = Opened | Attached | Finished
OnSend = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A run as Dify's database knows it. `outcome` is None while it is running."""

    run_id: str
    status: str
    outcome: Outcome | None
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """One line of Dify's log: `created_at` in Unix seconds of the server's clock."""

    run_id: str
    status: str
    created_at: float
    user: str | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation of an end user; `used_at` in Unix seconds of the server's clock."""

    conversation_id: str
    used_at: float


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a conversation: what was asked, and what Dify has saved of its answer. `outcome` is None while
    there is nothing saved: it is running, or nobody was there to save it."""

    message_id: str
    conversation_id: str
    query: str
    created_at: float
    outcome: Outcome | None
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file on Dify's side: usable by the same user only."""

    file_id: str
    name: str
    size: int


class DifyApp(Protocol):
    """One app. Every call is one HTTP exchange: nothing is retried in here.

    Every failure is a DifyFailureError whose failure kind says what can be known about the run.
    """

    def run(self, request: RunRequest, on_send: OnSend | None = None) -> AsyncGenerator[RunEvent]:
        """Start a run. `on_send` is awaited when the connection stands, right before the first byte; what it raises
        comes out here, and then nothing was sent.

        Yields Opened, then Attached, then Finished as its last; ends at the terminal event without waiting for the end
        of the stream. Leaving the iteration early closes the connection; the run goes on at Dify.
        Raises NOT_SENT, REFUSED, ERRORED or AMBIGUOUS before, and CUT after Attached."""
        ...

    async def run_detail(self, run_id: str) -> RunDetail | None:
        """The run, or None where Dify does not (yet) know it."""
        ...

    async def runs_of(self, user: str | None, after: float, page: int = 1) -> list[LoggedRun]:
        """Logged runs that this end user (None: anybody) started after a moment of the server's clock, newest first,
        100 on a page."""
        ...

    async def conversations(self, user: str) -> list[Conversation]:
        """This end user's conversations, the one used last first, at most 100. Only for chat apps."""
        ...

    async def messages(self, conversation_id: str, user: str) -> list[Said]:
        """The last 100 messages of a conversation, oldest first; none where this user has no such conversation."""
        ...

    async def stop(self, task_id: str, user: str) -> None:
        """Ask Dify to stop a run. An answer does not mean that it stops."""
        ...

    async def upload(self, name: str, content: bytes | Path, kind: str, user: str) -> Uploaded:
        """Upload a file (`kind`: its MIME type), read while it is sent where its path is given. Only this user's runs
        can use it. Costs nothing and may be repeated. Raises OSError where the file itself cannot be opened."""
        ...

    def addresses(self, link: FileLink) -> list[str]:
        """Where a file in a run's outputs may be had, the likeliest first; none for a link that leads nowhere."""
        ...

    def download(self, url: str, link: FileLink) -> AsyncGenerator[bytes]:
        """The bytes at one of the `addresses`, fetched without the key."""
        ...

    async def close(self) -> None: ...
