from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowmill.domain.cell import JsonCell
from rowmill.domain.outputs import DEPTH, FileLink, file_links, flatten, may_hold_files


def file(**known):
    return {"dify_model_identity": "__dify__file__", **known}


def deep(levels):
    """`levels` objects around a 1."""
    value = 1
    for _ in range(levels):
        value = {"k": value}
    return value


FLAT = {
    "none": (None, {}),
    "empty": ({}, {}),
    "scalars": (
        {"s": "x", "i": 1, "f": 1.5, "t": True, "n": None, "e": ""},
        {"s": "x", "i": 1, "f": 1.5, "t": True, "n": None, "e": ""},
    ),
    "64 bits and more": ({"i": 2**70}, {"i": 2**70}),
    "nested": ({"a": {"b": {"c": 1}, "d": 2}}, {"a.b.c": 1, "a.d": 2}),
    "key with a dot": ({"a.b": 1, "a": {"b": 2}}, {"a\\.b": 1, "a.b": 2}),
    "key with a backslash": ({"a\\": {"b": 1}, "a.b": 2}, {"a\\\\.b": 1, "a\\.b": 2}),
    "key without a text": ({"": 1, "a": {"": 2}}, {"": 1, "a.": 2}),
    "Chinese keys": ({"结果": {"分数": 5}}, {"结果.分数": 5}),
    "empty object": ({"a": {}}, {"a": JsonCell({})}),
    "list": ({"a": [1, {"b": 2}]}, {"a": JsonCell([1, {"b": 2}])}),
    "empty list": ({"a": []}, {"a": JsonCell([])}),
    "file": ({"f": file(url="https://a/x.pdf", filename="x.pdf")}, {"f": "https://a/x.pdf"}),
    "file in an object": ({"a": {"f": file(url="https://a/x")}}, {"a.f": "https://a/x"}),
    "file from elsewhere": ({"f": file(url=None, remote_url="https://b/y")}, {"f": "https://b/y"}),
    "file with a name only": ({"f": file(filename="x.pdf")}, {"f": "x.pdf"}),
    "file with nothing": ({"f": file()}, {"f": '{"dify_model_identity": "__dify__file__"}'}),
    "files": ({"f": [file(url="https://a/x"), file(filename="y")]}, {"f": "https://a/x\ny"}),
    "files and others": ({"f": [file(url="u"), 1]}, {"f": JsonCell([file(url="u"), 1])}),
    "looks like a file": ({"f": {"dify_model_identity": "x"}}, {"f.dify_model_identity": "x"}),
    "text alone": ("hi", {"output": "hi"}),
    "list alone": ([1], {"output": JsonCell([1])}),
    "false alone": (False, {"output": False}),
    "as deep as it goes": (deep(DEPTH + 1), {".".join("k" * (DEPTH + 1)): 1}),
    "too deep": (deep(DEPTH + 2), {".".join("k" * (DEPTH + 1)): JsonCell({"k": 1})}),
}


@pytest.mark.parametrize(("outputs", "cells"), FLAT.values(), ids=FLAT)
def test_flat(outputs, cells):
    assert flatten(outputs) == cells


def test_columns_come_in_dify_s_order():
    assert list(flatten({"z": 1, "a": {"y": 2, "b": 3}, "m": 4})) == ["z", "a.y", "a.b", "m"]


def test_kinds_of_scalars_stay():
    assert [type(cell) for cell in flatten({"a": True, "b": 1, "c": 1.0}).values()] == [bool, int, float]


keys = st.text("ab.\\", max_size=3)
trees = st.recursive(st.integers(), lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3), max_leaves=6)


def leaves(tree, depth):
    """How many columns there must be: objects below the depth are one each."""
    if isinstance(tree, dict) and depth >= 0:
        return sum(leaves(inner, depth - 1) for inner in tree.values())
    return 1


@given(st.dictionaries(keys, trees, max_size=4))
def test_no_value_is_lost(outputs):
    assert len(flatten(outputs)) == leaves(outputs, DEPTH)


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────

A = file(filename="a.pdf", url="/files/tools/1.pdf?sign=x", mime_type="application/pdf", size=5)
LINK = FileLink("/a", "a.pdf", "/files/tools/1.pdf?sign=x", "application/pdf", 5, own=True)


def test_a_link():
    assert file_links({"a": A}) == [LINK]


ODD = {
    "given as a link": (
        file(transfer_method="remote_url", url="u", size=-1),
        FileLink("/a", "", "u", "", None, own=False),
    ),
    "only its other address": (file(remote_url="u"), FileLink("/a", "", "u", "", None, own=True)),
    "nothing": (file(), FileLink("/a", "", "", "", None, own=True)),
    "other kinds of values": (file(url=5, filename=[], size="big"), FileLink("/a", "", "", "", None, own=True)),
}


@pytest.mark.parametrize(("value", "link"), ODD.values(), ids=ODD)
def test_odd_links(value, link):
    assert file_links({"a": value}) == [link]


def test_places_are_json_pointers():
    outputs = {"x": [A, {"deep": [[A]]}], "a/b~c": {"": A}, "text": "__dify__file__", "n": None}
    assert [link.place for link in file_links(outputs)] == ["/x/0", "/x/1/deep/0/0", "/a~1b~0c/"]
    assert file_links(None) == file_links([]) == file_links("x") == []
    assert file_links(deep(3000)) == []


def test_may_hold_files():
    assert may_hold_files('{"dify_model_identity":"__dify__file__"}')
    assert not may_hold_files("{}")


def test_cells_show_paths_of_files_that_are_kept():
    outputs = {"one": A, "many": [A, A], "in": {"deep/er": A}, "mixed": [A, 1]}
    paths = {"/one": "f/1", "/many/1": "f/2", "/in/deep~1er": "f/3", "/mixed/0": "f/4"}
    cells = flatten(outputs, paths)
    assert cells["one"] == "f/1"
    assert cells["many"] == f"{A['url']}\nf/2"
    assert cells["in.deep/er"] == "f/3"
    assert cells["mixed"] == JsonCell([A, 1]), "Dify's own words where a cell holds more than files"
    assert flatten(A, {"": "f/1"}).keys() == flatten(A).keys()
