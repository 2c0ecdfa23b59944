"""Limits that both stores keep."""

from __future__ import annotations

# Beyond any bill: a server that says more must not overflow a sum, which would make the whole store refuse.
MOST_TOKENS = 10**12

# A waiting row that is due further ahead than any delay of ours: the clock was set back meanwhile.
FAR_AHEAD = 600.0

# Rows that take another's result in one transaction: nobody who waits for a commit waits long.
SHARED_AT_ONCE = 5000


def bounded_tokens(tokens: int | None) -> int | None:
    return None if tokens is None else max(-MOST_TOKENS, min(tokens, MOST_TOKENS))
