"""The page of figures is what its data makes of it, and every row of the matrix has its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tools import faults_page

FOLDER = Path(__file__).parent
# The matrix: letters of the families, and how many rows each has. F lives beside the sheets.
ROWS = {"A": 8, "B": 9, "C": 15, "D": 14, "E": 2, "G": 6}


def test_the_page_is_made_from_its_data() -> None:
    data = json.loads(faults_page.DATA.read_text("utf-8"))
    assert faults_page.PAGE.read_text("utf-8") == faults_page.render(data)


def test_every_row_is_tried_or_said_not_to_be() -> None:
    names = re.findall(r"def test_(\w+)", "".join(path.read_text("utf-8") for path in FOLDER.glob("test_*.py")))
    tried = {row for name in names for row in re.findall(r"(?<![a-z0-9])([A-G]\d+)(?=_)", name)}
    every = {f"{family}{number}" for family, count in ROWS.items() for number in range(1, count + 1)}
    assert every - tried == {"B7", "G4"}
    assert {"B7", "G4"} <= faults_page.ELSEWHERE.keys()


def test_parts_of_a_row_are_summed_up() -> None:
    line = {
        "row": "A1", "fault": "f", "how": "h", "test": "t[1]", "tried": 2, "rows": 10, "lost": 0, "lost_paid": 0,
        "double": 0, "unknown": 1, "paid_unknown": 0, "recovery": [1.0, 3.0], "own": {"kills": 2, "s": 1.5, "by": "x"},
    }  # fmt: skip
    later = {**line, "test": "t[2]", "recovery": [8.0], "own": {"kills": 3, "s": 0.5, "by": "y"}}
    other = {**line, "row": "A10"}
    first, second = faults_page.merge([other, line, later])
    assert (first["row"], second["row"]) == ("A1", "A10")
    assert (first["tried"], first["unknown"], first["recovery"]) == (4, 2, [1.0, 3.0, 8.0])
    assert first["own"] == {"kills": 5, "s": 1.5, "by": "y"}
    assert "| 3.0 / 8.0 |" in faults_page._table([first])
