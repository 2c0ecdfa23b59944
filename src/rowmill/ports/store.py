"""What must be remembered, and how safely.

Promises of every store:
- `write` applies all its records in one transaction. When it returns, they survive a crash and a power cut.
- A record whose move the tables of rowmill.domain.batch do not allow any more changes nothing; the answer for it is
  False. It is never an error: it came too late.
- A record moves the attempt and its row, or neither. A record for an attempt whose row has gone on to a newer one moves
  the attempt alone (True): its slot is free again, the row is not touched.
- `write` with a fence that is no longer the newest raises FencedError and changes nothing.
- Counts are derived from the rows on every call.
- The first version of the app (workflow id) that a record tells is the batch's: later ones do not replace it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rowmill.ports.store_again import AgainStore, AppendedSheet

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from decimal import Decimal

    from rowmill.domain.batch import AttemptState, BatchMove, BatchState, Outcome, RowMove, RowState, Settings, Spent
    from rowmill.domain.cell import Cell
    from rowmill.domain.conversation import Before
    from rowmill.domain.form import Form, Mode
    from rowmill.domain.mapping import Mapping
    from rowmill.domain.progress import Counts


@dataclass(frozen=True, slots=True)
class AppRecord:
    """A registered app. `sealed_key` is the API key as rowmill.store.seal left it, never in clear."""

    id: str
    base_url: str
    name: str
    mode: Mode
    version: str | None
    sealed_key: bytes
    key_hint: str


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch with everything it needs to go on, pinned at its start."""

    id: str
    app: AppRecord
    form: Form
    mapping: Mapping
    settings: Settings
    state: BatchState
    sheet_path: str
    sheet_name: str
    sheet_digest: str
    headers: tuple[str, ...]
    created_at: float
    reason: str | None = None
    detail: str | None = None
    """a short text from the server that goes with the reason"""
    started_at: float | None = None
    ended_at: float | None = None
    workflow_id: str | None = None
    """the version of the app that the first run was of"""
    appended: tuple[AppendedSheet, ...] = ()
    """in order"""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A checked row on its way into a batch. `number` is the row's number in the sheet."""

    position: int
    number: int
    cells: tuple[Cell, ...]
    inputs: dict[str, Any]
    blank: bool = False
    conversation: str | None = None
    """which conversation of the sheet it is a turn of"""
    input_hash: str | None = None
    """rowmill.domain.again.input_hash; rows without one are like no other"""


@dataclass(frozen=True, slots=True)
class RowJob:
    """A row that may start, as soon as its turn in its conversation has come (rowmill.domain.conversation). `tries`
    numbers its attempts so far; `refused` of them certainly cost nothing. `first`: position of the first turn."""

    position: int
    inputs: dict[str, Any]
    tries: int = 0
    refused: int = 0
    conversation: str | None = None
    first: int | None = None
    before: Before | None = None

    @property
    def continues(self) -> str | None:
        """Dify's id of the conversation that it goes on with."""
        return self.before.conversation_id if self.before is not None else None


@dataclass(frozen=True, slots=True)
class AttemptKey:
    batch_id: str
    position: int
    number: int


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """An attempt that had not ended when its process did. `sent_at`: our Unix seconds when it was about to be sent;
    `ahead`: the server's clock minus ours."""

    key: AttemptKey
    state: AttemptState
    user: str
    slot: int
    sent_at: float
    job: RowJob
    run_id: str | None = None
    task_id: str | None = None
    ahead: float = 0.0
    cause: str | None = None
    message_id: str | None = None
    conversation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Intend:
    """The row starts: committed before a byte leaves. Eligible: pending, waiting; not a row that follows another, nor
    one that is held."""

    key: AttemptKey
    slot: int
    user: str
    sent_at: float


@dataclass(frozen=True, slots=True)
class Attach:
    """The run's ids are known."""

    key: AttemptKey
    run_id: str | None
    task_id: str | None
    workflow_id: str | None = None
    ahead: float = 0.0
    message_id: str | None = None
    conversation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Lose:
    """The reply was lost: the attempt is looked for from now on. The row stays running."""

    key: AttemptKey
    cause: str


@dataclass(frozen=True, slots=True)
class Ask:
    """The run waits for a person: its slot is free, and the row waits without being due. What it asks for stays with
    the row until it ends; where `outcome.asks` is None, what is there already stays."""

    key: AttemptKey
    outcome: Outcome
    cause: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The attempt ended with a run (or with an error of the row's own); the row moves as said."""

    key: AttemptKey
    move: RowMove
    outcome: Outcome
    cause: str | None = None
    seconds: float | None = None
    due_at: float | None = None
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Refuse:
    """Certainly no run was started: the attempt is void and the row back where it was, or waiting until `due_at`."""

    key: AttemptKey
    cause: str
    error: str | None = None
    move: RowMove | None = None
    due_at: float | None = None
    counts: bool = False
    """an error of the server: it counts as a try of the row although nothing was started"""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Looked for in vain: what became of the attempt is not known; a person decides."""

    key: AttemptKey
    cause: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Break:
    """This row and all later turns of its conversation end as failed, without an attempt: those that are pending. The
    number of `key` means nothing. False if there is none such."""

    key: AttemptKey
    cause: str


Record = Intend | Attach | Lose | Ask | Finish | Refuse | GiveUp | Break


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """A kept file on an app's server: usable by one end user only, and seen by the app under this name."""

    app_id: str
    user: str
    sha256: str
    name: str
    file_id: str
    uploaded_at: float


@dataclass(frozen=True, slots=True)
class OutputFile:
    """What became of one file in a run's outputs. `place`: where it stands there (rowmill.domain.outputs); `sha256` of
    the copy that is kept, or the `error` (a code, perhaps with what the server said) for which there is none."""

    place: str
    name: str
    sha256: str | None = None
    size: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row as the results show it. `outputs` is Dify's JSON text."""

    position: int
    number: int
    cells: tuple[Cell, ...]
    inputs: dict[str, Any]
    state: RowState
    outputs: str | None = None
    error: str | None = None
    cause: str | None = None
    tokens: int | None = None
    seconds: float | None = None
    attempts: int = 0
    run_id: str | None = None
    price: str | None = None
    currency: str | None = None
    asks: str | None = None
    """what its run asks a person for: see Outcome.asks"""
    conversation_id: str | None = None
    workflow_id: str | None = None
    """the version of the app that gave this result"""
    leader: int | None = None
    """the position of the row whose result this one takes"""
    shared_with: int | None = None
    """… and its number in the sheet"""
    origin: int | None = None
    """the position of the same row in the earlier batch: its result was taken, or is waited for while pending"""
    reused_row: int | None = None
    """… and its number in that batch's sheet"""
    files: tuple[OutputFile, ...] = ()
    """of the attempt that `outputs` came from, ordered by place"""


@dataclass(frozen=True, slots=True)
class Again:
    """Which rows are to run again: failed and stopped ones; with a cause those that have it, with positions those that
    stand there: then also unknown ones, and those that wait for a person. Never one that goes again by itself.
    `inputs` replaces those of the one row at `positions`.

    Rows that share a result go together, also where only one of them is named; but a row that gets other inputs shares
    with none any more. Those that followed it keep what it has come to, and the first of them leads the others."""

    cause: str | None = None
    positions: tuple[int, ...] | None = None
    inputs: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wished for a batch, as its state tells; `touched` counts how often rows were put back by hand."""

    state: BatchState
    reason: str | None
    touched: int


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """One line of the list of batches."""

    id: str
    state: BatchState
    app_name: str
    base_url: str
    sheet_path: str
    created_at: float
    reason: str | None
    counts: Counts = field(repr=False)


class Store(AgainStore, Protocol):
    """Everything is synchronous and may be called from a worker thread; one thread writes at a time."""

    def take_over(self, owner: str) -> int:
        """Become the one runner of this store; returns the fence for `write`, higher than any before."""
        ...

    def save_app(self, app: AppRecord) -> AppRecord:
        """Keep an app; one with the same id is replaced, also for the batches that have it."""
        ...

    def find_app(self, app_id: str) -> AppRecord | None: ...

    def add_batch(self, batch: BatchRecord) -> None:
        """Its app must have been saved. Raises StoreError("store_conflict") for an id that is taken."""
        ...

    def add_rows(self, batch_id: str, rows: Sequence[NewRow]) -> None:
        """Only while the batch is a draft: raises IllegalMoveError. None of them if a position stands twice."""
        ...

    def drop_batch(self, batch_id: str) -> None:
        """Forget a draft and its rows; raises IllegalMoveError for anything else."""
        ...

    def sweep_drafts(self, older_than: float) -> int:
        """Forget drafts made before this moment, which a killed import left behind; returns how many."""
        ...

    def batch(self, batch_id: str) -> BatchRecord | None: ...

    def batches(self) -> list[BatchSummary]:
        """Newest first; drafts and deleted ones left out."""
        ...

    def find_batch_ids(self, prefix: str) -> list[str]:
        """Ids that begin so, newest first; drafts and deleted ones left out."""
        ...

    def unfinished(self, app_id: str, sheet_digest: str, sheet_name: str) -> list[BatchSummary]:
        """Batches of the same sheet on the same app that have not come to their end, newest first."""
        ...

    def move_batch(
        self, batch_id: str, move: BatchMove, *, reason: str | None = None, detail: str | None = None, at: float = 0.0
    ) -> BatchState:
        """Raises IllegalMoveError. The reason is replaced, but stays while the batch drains and where a repeated move
        names none. The first START sets `started_at`; an end sets `ended_at`, any other move takes it away."""
        ...

    def write(self, records: Sequence[Record], fence: int) -> list[bool]: ...

    def startable(self, batch_id: str, now: float, after: int, limit: int, until: int | None) -> list[RowJob]:
        """Rows that may start, none of which follows another or is held: pending ones behind position `after` in order,
        and before them waiting ones that are due, the longest due first. `until`: only positions below it. One that is
        due more than 10 minutes from `now` is due: the clock was set back."""
        ...

    def next_turns(self, batch_id: str, turns: Sequence[tuple[str, int]], until: int | None) -> list[RowJob]:
        """For each (conversation, position): the turn right behind that position, if it is pending, in this order.
        `until` as above."""
        ...

    def next_due(self, batch_id: str, until: int | None = None) -> float | None:
        """When the next waiting row is due, of those below position `until`."""
        ...

    def open_attempts(self, batch_id: str) -> list[OpenAttempt]:
        """Attempts in intent, attached or unknown, oldest first."""
        ...

    def busy_slots(self, batch_id: str) -> set[int]:
        """Slots whose user may still get, or have, a run: those of OPEN_ATTEMPTS."""
        ...

    def known_runs(self, batch_id: str, user: str) -> set[str]:
        """Run ids that attempts of this slot user have."""
        ...

    def known_talk(self, batch_id: str, user: str, ids: Sequence[str]) -> set[str]:
        """Which of these ids are conversations or messages of attempts of this user. At most a few hundred at once."""
        ...

    def unsettled(self, batch_id: str, user: str) -> int:
        """How many attempts of this user are among OPEN_ATTEMPTS and have no message id yet."""
        ...

    def counts(self, batch_id: str) -> Counts: ...

    def prices(self, batch_id: str) -> dict[str, Decimal]:
        """What the batch cost by currency ('' where none was named), exact: over all attempts, because a run that
        failed and was repeated was paid for as well. Takes as long as there are attempts: not for every look."""
        ...

    def causes(self, batch_id: str) -> list[tuple[str, RowState, int]]:
        """(cause, state, rows), most first."""
        ...

    def wishes(self, batch_ids: Sequence[str]) -> dict[str, Wish]:
        """Of those batches that there are."""
        ...

    def close_batch(
        self,
        batch_id: str,
        *,
        wants_to_end: bool,
        reason: str,
        detail: str | None = None,
        at: float = 0.0,
        fence: int | None = None,
    ) -> BatchState | None:
        """Lay a batch down when nothing of it is under way any more, as closing_moves says: completed if no row is
        open (Counts.open), else as was wished for; `reason` where nobody wished anything but `wants_to_end`. None, and
        no change, where it is to go on."""
        ...

    def spent(self, batch_id: str, *, with_price: bool = False) -> Spent:
        """What the batch has cost since a person last started it: since its last START from a state in which nobody
        worked on it. All attempts count; of prices in several currencies it is the plain sum."""
        ...

    def retry(self, batch_id: str, again: Again, at: float = 0.0) -> int:
        """Put rows back to pending, and the batch back to where they can be taken up; both or neither. Returns how many
        rows. Turns that were not sent because one of them had no answer go with it. The attempts of unknown rows, and
        of those that wait for a person, stay as they are; unknown ones keep their slots. Raises IllegalMoveError."""
        ...

    def row(self, batch_id: str, position: int) -> RowResult | None: ...

    def positions_of(self, batch_id: str, numbers: Sequence[int]) -> list[int]:
        """Where the rows with these numbers in the sheet stand; those that there are, in order."""
        ...

    def delete_batch(self, batch_id: str) -> None:
        """It is shown nowhere any more. Raises IllegalMoveError while somebody works on it."""
        ...

    def purge(self, limit: int = 5000) -> int:
        """Remove so many rows of deleted batches, and the batches when none is left; returns how many rows."""
        ...

    def to_check(self, batch_id: str, after: int, limit: int) -> list[OpenAttempt]:
        """The latest attempts of rows behind position `after` that are paused or indeterminate, in order of rows."""
        ...

    def asking(self, batch_id: str, limit: int) -> list[RowResult]:
        """Rows that wait for a person, in order; not those that follow another, whose question is the same."""
        ...

    def results(self, batch_id: str) -> Iterator[RowResult]:
        """All rows in order, blank ones too, as one consistent reading, in bounded memory. May run beside a writer.
        Reads the rows as they are when the first one is taken. Close it if it is not read to its end."""
        ...

    def snapshot(self, batch_id: str) -> AbstractContextManager[Iterable[RowResult]]:
        """The same as `results`, to be gone through as often as wanted: every time the same rows in the same state."""
        ...

    # Files. What is told here is true whoever tells it and whenever: it needs no fence.

    def add_files(self, batch_id: str, files: Collection[str]) -> None:
        """Kept files, by their hash, that the rows of a draft name. Raises IllegalMoveError for any other batch."""
        ...

    def needed_files(self) -> set[str]:
        """Hashes of all kept files that a batch names or has put out."""
        ...

    def find_upload(self, app_id: str, user: str, sha256: str, name: str) -> UploadRecord | None: ...

    def save_upload(self, upload: UploadRecord) -> None:
        """A newer one of the same file, name and user takes the place of the older. Its app must have been saved."""
        ...

    def forget_uploads(self, app_id: str, sha256: str, name: str) -> None:
        """Of all users: what the server has lost of one it has most likely lost of all."""
        ...

    def save_output_file(self, key: AttemptKey, file: OutputFile) -> None:
        """What became of it so far; a file that is kept stays kept. Nothing for a row that is not there."""
        ...

    def output_files(self, key: AttemptKey) -> list[OutputFile]:
        """Of one attempt, ordered by place."""
        ...

    def fresh_outputs(self, batch_id: str, since: float) -> list[tuple[AttemptKey, str]]:
        """Outputs (JSON text) that hold a file, of rows whose last attempt has ended since that moment."""
        ...

    def count_output_files(self, batch_id: str) -> tuple[int, int]:
        """How many are kept, and how many are not, of the last attempts of all rows."""
        ...

    def close(self) -> None: ...
