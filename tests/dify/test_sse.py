"""Server-sent events, whatever the cuts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rowmill.dify.sse import EventDecoder
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.verdict import FailureKind

ENDS = (b"\n", b"\r\n", b"\r")
BOM = b"\xef\xbb\xbf"
NOISE = (b": a comment", b":", b"event: ping", b"id: 7", b"retry: 10", b"event", b"database: x")

# Anything but the two signs that end a line.
texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30).map(str.encode)
raws = st.binary(max_size=30).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A stream with everything that the standard allows, line ends mixed."""
    out = bytearray(draw(st.sampled_from([b"", BOM])))
    for lines in draw(st.lists(st.lists(texts | raws, min_size=1, max_size=3), max_size=6)):
        for line in lines:
            for noise in draw(st.lists(st.sampled_from(NOISE), max_size=2)):
                out += noise + draw(st.sampled_from(ENDS))
            space = b"data: " if line.startswith(b" ") else draw(st.sampled_from([b"data: ", b"data:"]))
            out += space + line + draw(st.sampled_from(ENDS))
        out += draw(st.sampled_from(ENDS))
    return bytes(out)


def decode(stream: bytes, cuts: list[int]) -> list[bytes]:
    decoder = EventDecoder()
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    # Empty chunks mean nothing.
    pieces = [stream[a:b] for a, b in pairwise(places)]
    return [event for piece in pieces for event in (*decoder.feed(piece), *decoder.feed(b""))]


def reference(stream: bytes) -> list[bytes]:
    """The standard's own words, the slow way."""
    text = stream.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, data = [], []
    for line in text.split(b"\n")[:-1]:
        if not line and data:
            events.append(b"\n".join(data))
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    return events


@settings(deadline=None)
@given(streams(), st.lists(st.integers(0, 300), max_size=20))
@example(BOM + b"data: x\n\n", [1, 2, 3])
@example(b"\n" + BOM + b"data: x\n\n", [1])
@example(b"data: a\r\ndata: b\r\n\r\n", [8])
def test_any_stream_cut_anywhere(stream: bytes, cuts: list[int]) -> None:
    assert decode(stream, cuts) == reference(stream)
    assert decode(stream, list(range(len(stream)))) == reference(stream)


@settings(deadline=None)
@given(st.lists(st.lists(texts | raws, min_size=1, max_size=3), max_size=6), st.sampled_from(ENDS), st.booleans())
def test_what_goes_in_comes_out(events: list[list[bytes]], end: bytes, bom: bool) -> None:
    written = (b"".join(b"data: " + line + end for line in lines) + end for lines in events)
    stream = (BOM if bom else b"") + b"".join(written)
    expected = [b"\n".join(lines) for lines in events]
    assert decode(stream, []) == expected
    assert decode(stream, list(range(len(stream)))) == expected


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x00", "😀", "\ufeff", "\xa0"])
def test_no_other_sign_ends_a_line(sign: str) -> None:
    text = f'{{"a":"x{sign}y"}}'.encode()
    stream = b"data: " + text + b"\n\n"
    assert decode(stream, []) == [text]
    assert decode(stream, list(range(len(stream)))) == [text]


def test_bytes_that_are_no_text_are_kept() -> None:
    assert decode(b"data: \xff\xfe\xc3\n\n", [8]) == [b"\xff\xfe\xc3"]


def test_a_mark_that_is_not_first_is_part_of_its_line() -> None:
    assert decode(b"\n" + BOM + b"data: x\n\n", [1]) == []


@pytest.mark.parametrize("start", [b"\xef", b"\xef\xbb", b"\xefdata: y\n\n"])
def test_half_a_mark_is_not_taken_away(start: bytes) -> None:
    decoder = EventDecoder()
    assert decoder.feed(start) == []
    assert decoder.feed(b"\ndata: x\n\n") == [b"x"]


def test_an_unfinished_event_is_not_given() -> None:
    assert decode(b"data: x\n", []) == []
    assert decode(b"data: x", []) == []


@pytest.mark.parametrize(
    ("chunks", "fits"),
    [
        ([b"data: " + b"x" * 80, b"\n\n"], True),
        ([b"data: " + b"x" * 100, b"\n\n"], False),
        ([b": " + b"x" * 100], False),
        ([b"data: " + b"x" * 30 + b"\n"] * 4, False),
        ([b"data: " + b"x" * 30 + b"\n\n"] * 20, True),
        ([b"data:\n"] * 101, False),
        ([b": ping\n"] * 500, True),
        ([b"event: ping\n\n"] * 500, True),
    ],
    ids=["fits", "one line", "comment", "many lines", "many events", "empty lines", "comments", "pings"],
)
def test_an_event_has_a_largest_size(chunks: list[bytes], fits: bool) -> None:
    decoder = EventDecoder(largest=100)
    if fits:
        assert sum(len(decoder.feed(part)) for part in chunks) == sum(
            c.endswith(b"x\n\n") or c == b"\n\n" for c in chunks
        )
        return
    with pytest.raises(DifyFailureError) as caught:
        list(map(decoder.feed, chunks))
    assert caught.value.failure.kind is FailureKind.CUT
    assert caught.value.failure.code == "reply_too_large"


class Counting(bytearray):
    """Counts the bytes that searches have to look at."""

    looked = 0

    def find(self, sub: bytes, start: int = 0, *rest: int) -> int:  # type: ignore[override]
        Counting.looked += max(0, len(self) - start)
        return super().find(sub, start, *rest)

    def rfind(self, sub: bytes, start: int = 0, *rest: int) -> int:  # type: ignore[override]
        Counting.looked += max(0, len(self) - start)
        return super().rfind(sub, start, *rest)

    def __contains__(self, sub: object) -> bool:
        Counting.looked += len(self)
        return super().__contains__(sub)  # type: ignore[operator]


def looked_at(size: int) -> int:
    """How many bytes are searched for an event of this size in chunks of 1 KB."""
    Counting.looked = 0
    decoder = EventDecoder()
    decoder._rest = Counting()
    big = b"x" * 1024
    assert decoder.feed(b"data: ") == []
    for _ in range(size // 1024):
        assert decoder.feed(big) == []
    assert decoder._rest.__class__ is Counting
    assert decoder.feed(b"\n\n") == [big * (size // 1024)]
    return Counting.looked


def test_a_big_event_is_looked_through_once() -> None:
    small, large = looked_at(500 * 1024), looked_at(5000 * 1024)
    assert 0 < small < 4 * 500 * 1024
    assert large < 11 * small
