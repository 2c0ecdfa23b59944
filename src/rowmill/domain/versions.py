"""Which published version of the app runs the rows, and when it changes under a batch."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

_SHOWN = 8


def short(workflow_id: str) -> str:
    """As people tell versions apart."""
    return workflow_id[:_SHOWN]


def is_version(text: str) -> bool:
    """Dify's versions are named by UUIDs, and it answers 400 to anything else."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


@dataclass(slots=True)
class Sightings:
    """The versions that runs told. `last` is the newest of them."""

    last: str | None = None
    known: set[str] = field(default_factory=set)

    def note(self, workflow_id: str | None) -> str | None:
        """What a run told; returns the version before it if it is a new one. A run that began before the app was
        published again ends after it: an old version that comes back is no news."""
        if workflow_id is None or workflow_id in self.known:
            return None
        before, self.last = self.last, workflow_id
        self.known.add(workflow_id)
        return before
