"""Faults by request: added by a test, over HTTP, or written into a cell as `[[fault:KIND key=value]]`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

KINDS = frozenset({
    # no run is started
    "status", "too_many_400", "too_many_429", "rate_limit_429", "edge_1015", "gateway_502_before", "html_200",
    "redirect", "reset_before", "silent",
    # the run is started, its answer is lost or late
    "gateway_504", "reset_after", "cut_started", "cut_end", "cut_at_byte", "clean_eof_started", "eof_no_id", "stall",
    "drip", "drop_started", "hold_started", "running_forever", "detail_404_for", "lost_run",
    # (running_forever and lost_run: its row stays at "running"; lost_run has no log line either)
    # the run comes to another end
    "error_event", "run_failed", "run_partial", "run_stopped", "run_paused", "outputs", "big_output",
    # the stream is odd
    "unknown_events", "foreign_events", "duplicate_finish", "events_after_finish", "invalid_utf8", "one_byte_chunks",
    "stop_ignored",
})  # fmt: skip

# Of requests that start no run at all: uploads, and the fetching of files.
UPLOAD_KINDS = frozenset({"upload_status", "upload_reset", "upload_cut", "upload_slow"})
DOWNLOAD_KINDS = frozenset({"download_status", "download_page", "download_cut"})
ALL_KINDS = KINDS | UPLOAD_KINDS | DOWNLOAD_KINDS

_WRITTEN = re.compile(r"\[\[fault:(\w+)((?:\s+\w+=[^\s\]]*)*)\s*\]\]")


@dataclass(slots=True)
class Fault:
    """Strikes the next `times` requests of its sort that fit (-1: all), after letting `after` of them pass. `match`
    is looked for in a run's inputs, and in the path of a download."""

    kind: str
    times: int = 1
    app: str | None = None
    match: str | None = None
    after: int = 0
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ALL_KINDS:
            raise ValueError(f"no fault {self.kind!r}; there are: {', '.join(sorted(ALL_KINDS))}")

    def number(self, name: str, default: float) -> float:
        return float(self.params.get(name, default))

    def text(self, name: str, default: str) -> str:
        return str(self.params.get(name, default))


class Faults:
    """The faults that are still to strike."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._written: dict[str, int] = {}

    def add(self, *faults: Fault) -> None:
        self._waiting.extend(faults)

    def clear(self) -> None:
        self._waiting.clear()

    def strike(self, app: str, inputs: Any) -> Fault | None:
        """The fault for this request, counted as used."""
        text = str(inputs)
        return self._from_cell(text) or self._from_list(app, text, KINDS)

    def strike_upload(self, app: str) -> Fault | None:
        return self._from_list(app, "", UPLOAD_KINDS)

    def strike_download(self, path: str) -> Fault | None:
        return self._from_list("", path, DOWNLOAD_KINDS)

    def _from_list(self, app: str, text: str, kinds: frozenset[str]) -> Fault | None:
        for fault in self._waiting:
            if fault.kind not in kinds:
                continue
            if (fault.app and fault.app != app) or (fault.match and fault.match not in text):
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            if fault.times == 0:
                continue
            fault.times -= fault.times > 0
            return fault
        return None

    def _from_cell(self, text: str) -> Fault | None:
        match = _WRITTEN.search(text)
        if match is None:
            return None
        params = dict(part.split("=", 1) for part in match.group(2).split())
        times = int(params.pop("times", 1))
        # Counted per row, so that the same fault in two rows strikes both.
        struck = self._written.get(text, 0)
        if 0 <= times <= struck:
            return None
        self._written[text] = struck + 1
        return Fault(match.group(1), params=dict(params))
