"""What differs between Dify versions, as far as a batch client can see it (contract §0.2, §6, §7; recordings)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Profile:
    """One version's behaviour."""

    version: str
    celery_slots: int = 0
    """streaming runs that execute at once; 0 = they run in the API process, without a queue"""
    first_ping: bool = True
    hold_ms: int = 1000
    invalid_stream: str = "silence"
    """refused inputs while streaming: `400`, `silence`, or `error` (an event without a code)"""
    log_at: str = "start"
    """when a run's log line appears: `start`, `end`, or `watched` (at the end, if the client still listens)"""
    outlives_client: bool = True
    saves_unheard: bool = True
    """whether a chatflow's answer is saved when its client has gone: its consumer is the worker"""
    unknown_run: int = 404
    """status for an unknown run id; 200 = an object of nulls"""
    events_endpoint: bool = True
    asks_people: bool = True
    """whether a run that waits for a person says for what, and can be answered through the API"""
    limit_streams: bool = False
    """whether the app's limit of runs at once holds for streaming runs"""
    stop_is_stored: bool = False
    """whether the run's row says `stopped` after a stop, or `running` for ever"""
    outputs_as_text: bool = False
    """whether a run's detail shows its outputs as JSON text, as it does its inputs"""
    tells_reason: bool = True
    """whether workflow_started says why"""
    message_end_first: bool = True
    """whether a chatflow's message_end comes before its workflow_finished"""
    http_error: str = "Reached maximum retries for URL"
    """what a failed HTTP node says"""
    proxy_cut_s: float | None = None
    """a proxy in front that ends blocking requests"""


# 1.11.4 and before, as recorded or read in the sources.
_OLD: dict[str, Any] = {
    "first_ping": False, "hold_ms": 2, "invalid_stream": "400", "unknown_run": 200, "events_endpoint": False,
    "asks_people": False, "limit_streams": True, "outputs_as_text": True, "tells_reason": False,
    "message_end_first": False, "http_error": "Reached maximum retries (0) for URL", "saves_unheard": False,
}  # fmt: skip

PROFILES: dict[str, Profile] = {
    "1.8": Profile("1.8.1", **_OLD, log_at="watched", outlives_client=False),
    "1.10": Profile("1.10.1", **_OLD, log_at="end"),
    "1.11": Profile("1.11.4", **_OLD),
    "1.13": Profile("1.13.3", celery_slots=1, events_endpoint=False, asks_people=False),
    "1.14": Profile("1.14.2", celery_slots=4),
    "1.16": Profile("1.16.1", celery_slots=4, invalid_stream="error"),
    "cloud-proxy": Profile("1.16.1", invalid_stream="error", proxy_cut_s=100.0),
}  # fmt: skip
