"""How many files, and how much of a zip, are looked at before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1024**3


@dataclass(frozen=True, slots=True)
class Limits:
    """Only files that rows name are ever inflated, one at a time, and each is judged by the app's limits before."""

    most_files: int = 200_000
    zip_bytes: int = 64 * GB
    """as the zip itself says; no file is read beyond what it says of it"""
    zip_ratio: int = 200
    """unpacked size to the size of the zip: parts that overlap count as often as they are named"""
    zip_ratio_from: int = 100 * 1024**2
