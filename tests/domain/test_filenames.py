from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given

from rowmill.domain.filenames import LONGEST, distinct, safe_name

from .making import EVERY_CODE_POINT

NAMES = {
    "plain": ("report 1.pdf", "report 1.pdf"),
    "Chinese": ("报告 😀.pdf", "报告 😀.pdf"),
    "path": ("../../etc/passwd", "passwd"),
    "Windows path": ("C:\\x\\y.txt", "y.txt"),
    "only dots": ("..", "file"),
    "dot": (".", "file"),
    "nothing": ("", "file"),
    "slash": ("a/", "file"),
    "hidden": (".bashrc", "bashrc"),
    "NUL": ("a\0b.txt", "a_b.txt"),
    "only NUL": ("\0", "file"),
    "lines": ("a\r\nb.txt", "a_b.txt".replace("_", "__")),
    "reserved": ("CON", "_CON"),
    "reserved with an ending": ("nul.txt", "_nul.txt"),
    "reserved with a number": ("Com1.tar.gz", "_Com1.tar.gz"),
    "not reserved": ("console.txt", "console.txt"),
    "Windows' signs": ('a<b>c:d"e|f?g*.txt', "a_b_c_d_e_f_g_.txt"),
    "dots at the end": ("a.txt. .", "a.txt"),
    "turned around": ("gpj.\u202eexe", "gpj._exe"),
    "half a character": ("a\udcff.txt", "a_.txt"),
    "accents": (unicodedata.normalize("NFD", "é.txt"), "é.txt"),
}


@pytest.mark.parametrize(("name", "safe"), NAMES.values(), ids=NAMES)
def test_safe_names(name, safe):
    assert safe_name(name) == safe


def test_long_names_keep_their_ending():
    for name in ("x" * 4000 + ".pdf", "字" * 4000 + ".pdf", "y" * 300 + "." + "z" * 300):
        safe = safe_name(name)
        assert LONGEST - 4 < len(safe.encode()) <= LONGEST
        assert safe.endswith(".pdf") or "z" not in safe


@given(EVERY_CODE_POINT)
def test_every_name_becomes_one_part_of_a_path(name):
    safe = safe_name(name)
    assert safe
    assert safe not in (".", "..")
    assert not set(safe) & set('/\\\0<>:"|?*\n\r')
    assert len(safe.encode()) <= LONGEST + 1
    assert safe_name(safe) == safe


def test_distinct():
    names = ["a.txt", "A.txt", "a.txt", "b", "b", "a (2).txt"]
    assert distinct(names) == ["a.txt", "A (2).txt", "a (3).txt", "b", "b (2)", "a (2) (2).txt"]
