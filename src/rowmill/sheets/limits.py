"""How much of a file is read before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sheet may cost. The last three hold for the process that parses workbooks."""

    max_columns: int = 1_000
    max_rows: int = 1_048_576
    """the header is counted: it is Excel's own number"""
    cell_chars: int = 32_767
    """in workbooks: Excel's own number"""
    text_cell_chars: int = 1_000_000
    """in csv, tsv and jsonl"""
    file_bytes: int = 1024 * MB
    zip_entries: int = 2_000
    """every picture, drawing and comment of a workbook is an entry: some hundreds are normal"""
    zip_bytes: int = 2048 * MB
    zip_ratio: int = 200
    zip_ratio_from: int = 10 * MB
    """a small workbook of repeated values packs very well and harms nobody"""
    memory_bytes: int = 2048 * MB
    cpu_seconds: int = 60
    wall_seconds: float = 120.0
    """without a sign of life"""

    @property
    def line_chars(self) -> int:
        """The longest line of a text file: bounds the memory that a file without line ends takes."""
        return 16 * self.text_cell_chars
