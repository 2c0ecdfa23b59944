"""Server-sent events from bytes, without I/O.

Lines end at LF, CRLF or CR and nowhere else: U+2028, U+0085 and the like are text. Only `data` matters to us, since
Dify puts the name of an event into its JSON and sends bare `event: ping` lines without data.
"""

from __future__ import annotations

from rowmill.domain.errors import DifyFailureError
from rowmill.domain.verdict import Failure, FailureKind

# One event can hold all outputs of a run. More than this is a fault, or an attack.
LARGEST_EVENT = 32 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"


class EventDecoder:
    """Feed it bytes cut anywhere; it gives the data of each event that is complete."""

    def __init__(self, largest: int = LARGEST_EVENT) -> None:
        self._largest = largest
        self._rest = bytearray()
        self._scanned = 0
        self._data: list[bytes] = []
        self._held = 0
        self._after_cr = False
        self._first = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that this chunk completes, in order."""
        if not chunk:
            return []
        self._rest += chunk
        if self._first:
            if len(self._rest) < len(_BOM) and _BOM.startswith(self._rest):
                return []
            self._first = False
            if self._rest.startswith(_BOM):
                del self._rest[: len(_BOM)]
        events: list[bytes] = []
        for line in self._lines():
            self._take(line, events)
        if len(self._rest) + self._held > self._largest:
            limit = self._largest // (1024 * 1024)
            raise DifyFailureError(Failure(FailureKind.CUT, "reply_too_large", f"one event is larger than {limit} MB"))
        return events

    def _lines(self) -> list[bytes]:
        rest = self._rest
        if self._after_cr and rest.startswith(b"\n"):
            del rest[:1]
        self._after_cr = False
        # A big event comes in hundreds of chunks: look only at what is new.
        if rest.find(b"\r", self._scanned) < 0:
            return self._split_at_lf()
        text = bytes(rest)
        self._after_cr = text.endswith(b"\r")
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = bytearray(lines.pop())
        self._scanned = len(self._rest)
        return lines

    def _split_at_lf(self) -> list[bytes]:
        last = self._rest.rfind(b"\n", self._scanned)
        if last < 0:
            self._scanned = len(self._rest)
            return []
        lines = bytes(self._rest[:last]).split(b"\n")
        del self._rest[: last + 1]
        self._scanned = len(self._rest)
        return lines

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data, self._held = [], 0
        elif line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
            self._data.append(value)
            self._held += len(value) + 1  # its line end counts too: lines without text are not free
