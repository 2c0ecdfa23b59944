"""In which encoding a text file is written: the whole file is looked at, in blocks."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

import charset_normalizer

from rowmill.domain.errors import SheetError
from rowmill.sheets.kinds import blocks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
START = 1 << 16
# One byte in so many is a NUL, at least.
UTF16_NULS = 60
SAMPLE = 1 << 18
# Newer standards that hold every character of the older: Excel writes the newer under the older name.
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "cp936": "gb18030", "ascii": "utf-8"}
# In the order of preference when several give the same text.
GUESSES = (
    "cp1252",
    "cp1250",
    "big5",
    "cp950",
    "cp932",
    "euc_jp",
    "cp949",
    "cp1251",
    "koi8_r",
    "cp1253",
    "cp1254",
    "gb18030",
)

HIGH_LINE = re.compile(rb"[^\n]*[\x80-\xff][^\n]*\n?")
PAIR = re.compile(rb"[\x81-\xfe][\x40-\xfe]")
CHINESE_PAIR = re.compile(rb"[\xa1-\xa9\xb0-\xf7][\xa1-\xfe]")
KANA_PAIR = re.compile(rb"[\xa4\xa5][\xa1-\xf6]")
HANGUL_PAIR = re.compile(rb"[\xb0-\xc8][\xa1-\xfe]")
# Letters of Central Europe that are signs in the Western table: signs do not stand inside words.
SIGN_IN_WORD = re.compile(
    rb"[A-Za-z\xc0-\xff][\x8a\x8c-\x8f\x9a\x9c-\x9f\xa3\xa5\xaa\xaf\xb3\xb9\xba\xbc\xbe\xbf]"
    rb"|[\x8a\x8c-\x8f\x9a\x9c-\x9f\xa3\xa5\xaa\xaf\xb3\xb9\xba\xbc\xbe][A-Za-z\xc0-\xff]"
)
HIGH_RUN = re.compile(rb"[\x81-\xff]{2,}")
CHINESE_SHARE = 0.85
KANA_SHARE = 0.15
# Chinese text of so many different characters always has some in the second half of GB2312's table; Korean has none.
HANGUL_PAIRS = 10


def find_encoding(path: Path, wanted: str | None = None) -> str:
    """A name for `open`. Raises SheetError if the file does not decode, from the first byte to the last."""
    if wanted is not None:
        return _as_wanted(path, wanted)
    for encoding in _likely(path):
        if decodes(path, encoding):
            return encoding
    raise SheetError("csv_encoding_unknown")


def _as_wanted(path: Path, wanted: str) -> str:
    try:
        name = codecs.lookup(wanted).name.replace("-", "_")
        encoding = WIDER.get(name, wanted)
        "".encode(encoding)
    except LookupError as error:
        raise SheetError("csv_encoding_name", encoding=wanted) from error
    if name in {"utf_8", "utf8"}:
        encoding = "utf-8-sig"
    if not decodes(path, encoding):
        raise SheetError("csv_encoding_wrong", encoding=wanted)
    return encoding


def _likely(path: Path) -> Iterable[str]:
    with path.open("rb") as file:
        start = file.read(START)
    by_bom = next((name for bom, name in BOMS if start.startswith(bom)), None) or _utf16_by_nuls(start)
    if by_bom:
        yield by_bom
        return
    yield "utf-8"
    sample = _high_lines(path)
    if _is_western(sample):
        yield "cp1252"
    by_pairs = _by_pairs(sample)
    if by_pairs:
        yield by_pairs
    yield from _by_statistics(sample)


def _utf16_by_nuls(start: bytes) -> str | None:
    """UTF-16 without a mark: its separators and line ends have a NUL beside them, always on the same side."""
    even, odd = start[0::2].count(0), start[1::2].count(0)
    if len(start) % 2 or min(even, odd) or max(even, odd) * UTF16_NULS < len(start) or _is_mostly_plain(start):
        return None
    return "utf-16-le" if odd else "utf-16-be"


def _is_mostly_plain(start: bytes) -> bool:
    """A file of one byte per character with a stray NUL in it, which is an error worth naming."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return start.count(0) * 3 < len(start)


def decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as file:
            for block in blocks(file):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeError:
        return False
    return True


def _high_lines(path: Path) -> bytes:
    """The first lines with bytes beyond ASCII: only they tell encodings apart. Whole lines keep pairs together."""
    found = bytearray()
    rest = b""
    with path.open("rb") as file:
        for block in blocks(file):
            rest = _take_lines(rest + block, found)
            if len(found) > SAMPLE:
                return bytes(found[:SAMPLE])
    return bytes(found + rest)


def _take_lines(text: bytes, found: bytearray) -> bytes:
    cut = text.rfind(b"\n") + 1 or len(text)
    for line in HIGH_LINE.finditer(text, 0, cut):
        found += line[0]
        if len(found) > SAMPLE:
            break
    return text[cut:]


def _is_western(sample: bytes) -> bool:
    """Accents stand one by one among plain letters; statistics of short texts take them for Central European."""
    return not SIGN_IN_WORD.search(sample) and not HIGH_RUN.search(sample)


def _by_pairs(sample: bytes) -> str | None:
    """GB18030 by where its pairs of bytes lie: Big5 and Shift-JIS also use places that GB2312 leaves free."""
    pairs = PAIR.findall(sample)
    if not pairs or _share(CHINESE_PAIR, pairs) < CHINESE_SHARE:
        return None
    if _share(KANA_PAIR, pairs) > KANA_SHARE:
        return "euc_jp"
    different = set(pairs)
    if len(different) >= HANGUL_PAIRS and _share(HANGUL_PAIR, list(different)) == 1:
        return "cp949"
    return "gb18030"


def _share(pattern: re.Pattern[bytes], pairs: list[bytes]) -> float:
    return sum(1 for pair in pairs if pattern.fullmatch(pair)) / len(pairs)


def _by_statistics(sample: bytes) -> Iterable[str]:
    for match in charset_normalizer.from_bytes(sample, cp_isolation=list(GUESSES)):
        alike = {match.encoding, *match.could_be_from_charset}
        yield from (name for name in GUESSES if name in alike)
    yield "cp1252"
