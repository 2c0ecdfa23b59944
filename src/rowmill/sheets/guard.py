"""Texts that a spreadsheet would run as formulas, marked as text. For csv: xlsx needs no guard."""

from __future__ import annotations

import re

# What a spreadsheet takes for the beginning of a formula, also after it has turned full-width signs into plain ones
# (the list of OWASP).
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
# Numbers, telephone numbers and dashes: a sign and then nothing that could name a function or a cell.
HARMLESS = re.compile(r"[+-][ (]?\d[\d ()/.\-]*|-+|[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def guarded(text: str) -> str:
    """The text with `'` before it if a spreadsheet would run it."""
    if text.startswith(FORMULA_STARTS) and not HARMLESS.fullmatch(text):
        return f"'{text}"
    return text
