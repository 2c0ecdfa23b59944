from __future__ import annotations

import pytest

from rowmill.domain.files import KEPT, KINDS, kind_of, placeholders, read_files, replaced, shown_inputs
from rowmill.domain.form import FileSizes
from rowmill.domain.listing import Listing

from .making import field


def remote(url, kind="document"):
    return {"transfer_method": "remote_url", "url": url, "type": kind}


A, B = "https://a.com/x.pdf", "http://b.com/y.docx"

# Every ending that contract §4.4 names, and some of the other kinds.
DOCUMENTS = (
    "txt markdown md mdx pdf html htm xlsx xls vtt properties doc docx csv eml msg ppt pptx xml epub".split()  # noqa: SIM905
)
ENDINGS = {
    **dict.fromkeys(DOCUMENTS, "document"),
    "png": "image",
    "JPG": "image",
    "svg": "image",
    "mp3": "audio",
    "Mp4": "video",
    "exe": None,
    "zip": None,
    "": None,
    ".pdf": None,
}


@pytest.mark.parametrize(("ending", "kind"), ENDINGS.items(), ids=[repr(e) for e in ENDINGS])
def test_kind(ending, kind):
    assert kind_of(ending) == kind


def test_no_ending_has_two_kinds():
    endings = [ending for kind in KINDS.values() for ending in kind]
    assert len(endings) == len(set(endings))


SEVERAL = {
    "one": (A, [A]),
    "lines": (f"{A}\n{B}", [A, B]),
    "Windows lines and blanks": (f" {A} \r\n\r\n {B}\n", [A, B]),
    "comma": (f"{A},{B}", [A, B]),
    "comma and space": (f"{A}, {B}", [A, B]),
    "Chinese comma": (f"{A}，{B}", [A, B]),
    "Chinese semicolon": (f"{A}；{B}", [A, B]),
    "semicolon": (f"{A}; {B}", [A, B]),
    "space": (f"{A} {B}", [A, B]),
    "bar": (f"{A} | {B}", [A, B]),
    "large letters": (f"{A},{B.upper()}", [A, "http://B.COM/Y.DOCX"]),
    "a comma inside a link stays": ("https://a.com/x,y.pdf", ["https://a.com/x,y.pdf"]),
    "a space inside a link stays": ("https://a.com/x y.pdf", ["https://a.com/x y.pdf"]),
    "a link inside a link stays": (f"https://p.com/get.pdf?u={A}", [f"https://p.com/get.pdf?u={A}"]),
    "list": ([A, B], [A, B]),
    "list with spaces": ([f" {A}\n"], [A]),
    "object": ({"url": A}, [A]),
    "object with Dify's other name": ({"remote_url": A}, [A]),
    "list of objects": ([{"url": A}, {"url": "", "remote_url": B}], [A, B]),
    "empty list": ([], []),
}


@pytest.mark.parametrize(("entries", "links"), SEVERAL.values(), ids=SEVERAL)
def test_links_of_a_list(entries, links):
    assert read_files(field("file-list"), entries) == ([remote(link) for link in links], [])


NO_LINKS = {
    "name": "report.pdf",
    "path": "/home/me/report.pdf",
    "Windows path": "C:\\report.pdf",
    "ftp": "ftp://a.com/x.pdf",
    "data": "data:text/plain,hello",
    "no host": "https:///x.pdf",
    "no slashes": "https:a.com",
    "broken address": "http://[::1/x.pdf",
    "a name behind a link": f"{A}\nreport.pdf",
    "number": [5],
    "nothing": [None],
    "list in a list": [[A]],
    "uploaded file": {"transfer_method": "local_file", "upload_file_id": "u"},
    "url is no text": {"url": 5},
}


@pytest.mark.parametrize("entries", NO_LINKS.values(), ids=NO_LINKS)
@pytest.mark.parametrize("kind", ["file", "file-list"])
def test_no_link(kind, entries):
    value, misfits = read_files(field(kind), entries)
    assert (value, misfits[0][0]) == (None, "file_not_url")


def test_no_link_shows_60_characters():
    assert read_files(field("file"), "x" * 100) == (None, [("file_not_url", {"found": "x" * 60})])


ONE = {
    "one": (A, remote(A), []),
    "none": ([], None, [("file_only_one", {"found": 0})]),
    "none between bars": ("|", None, [("file_only_one", {"found": 0})]),
    "two": ([A, B], None, [("file_only_one", {"found": 2})]),
}


@pytest.mark.parametrize(("entries", "value", "misfits"), ONE.values(), ids=ONE)
def test_one_file(entries, value, misfits):
    assert read_files(field("file", max_length=9), entries) == (value, misfits)


COUNTS = {"as many": (2, 2, False), "one more": (2, 3, True), "no limit": (None, 50, False), "0": (0, 50, False)}


@pytest.mark.parametrize(("limit", "count", "too_many"), COUNTS.values(), ids=COUNTS)
def test_number_of_files(limit, count, too_many):
    value, misfits = read_files(field("file-list", max_length=limit), [A] * count)
    if too_many:
        assert (value, misfits) == (None, [("file_too_many", {"limit": limit, "found": count})])
    else:
        assert (len(value), misfits) == (count, [])


METHODS = {
    "not said": ((), []),
    "links": (("remote_url",), []),
    "both": (("local_file", "remote_url"), []),
    "uploads only": (("local_file",), [("file_links_refused", {})]),
}


@pytest.mark.parametrize(("methods", "misfits"), METHODS.values(), ids=METHODS)
def test_upload_methods(methods, misfits):
    assert read_files(field("file", upload_methods=methods), A)[1] == misfits


# link, allowed kinds, allowed endings -> kind, or None for "refused"
TYPED = {
    "document": ("https://a.com/x.pdf", ("document",), (), "document"),
    "large ending": ("https://a.com/x.PDF", ("document",), (), "document"),
    "query is no ending": ("https://a.com/x.pdf?as=x.png#y.mp3", ("document",), (), "document"),
    "percent signs": ("https://a.com/a%2Fx%2Epdf", ("document",), (), "document"),
    "dots in the folder": ("https://a.com/v1.2/x.png", ("image",), (), "image"),
    "any kind": ("https://a.com/x.mp3", (), (), "audio"),
    "other kind": ("https://a.com/x.png", ("document", "audio"), (), None),
    "unknown ending": ("https://a.com/x.exe", ("document",), (), None),
    "unknown ending, any kind": ("https://a.com/x.exe", (), (), None),
    "custom": ("https://a.com/x.exe", ("custom",), (".exe",), "custom"),
    "custom without a dot, other case": ("https://a.com/x.exe", ("custom",), ("EXE",), "custom"),
    "custom with another ending": ("https://a.com/x.exe", ("custom",), (".zip",), None),
    "custom without endings denies": ("https://a.com/x.exe", ("custom",), (), None),
    "known kind that only custom allows": ("https://a.com/x.pdf", ("image", "custom"), ("pdf",), "custom"),
    "known kind goes before custom": ("https://a.com/x.pdf", ("document", "custom"), ("pdf",), "document"),
    "endings without custom": ("https://a.com/x.exe", ("document",), ("exe",), None),
    "no ending: the first kind": ("https://a.com/download?id=5", ("image", "document"), (), "image"),
    "no ending, any kind": ("https://a.com/download", (), (), "document"),
    "no path": ("https://a.com", ("audio",), (), "audio"),
}


@pytest.mark.parametrize(("link", "types", "endings", "kind"), TYPED.values(), ids=TYPED)
def test_kind_of_a_link(link, types, endings, kind):
    value, misfits = read_files(field("file", file_types=types, file_extensions=endings), link)
    if kind is None:
        assert (value, misfits[0][0]) == (None, "file_kind_refused")
    else:
        assert (value, misfits) == (remote(link, kind), [])


def test_kind_refused_names_what_is_allowed():
    _, misfits = read_files(field("file", file_types=("image", "audio")), A)
    assert misfits == [("file_kind_refused", {"found": ".pdf", "allowed": ("image", "audio")})]


def test_scheme_is_written_small():
    assert read_files(field("file"), "HTTPS://A.com/X.pdf")[0]["url"] == "https://A.com/X.pdf"


# ── names of files ──────────────────────────────────────────────────────────────────────────────────────────────────

MB = 1024 * 1024
FOLDER = Listing(
    {
        "a.pdf": 5,
        "b.pdf": 6,
        "in/c.docx": 7,
        "Smith, John; jr.pdf": 8,
        "x|y.png": 9,
        "empty.txt": 0,
        "noending": 1,
        "z.log": 1,
        "big.png": 10 * MB + 1,
        "fits.png": 10 * MB,
        "big.mp3": 51 * MB,
        "big.txt": 15 * MB + 1,
        "big.mp4": 100 * MB,
    },
    "docs",
)
SIZES = FileSizes(image=10, video=100, audio=50, other=15)


def local(name, size, kind="document"):
    return {"transfer_method": "local_file", "type": kind, KEPT: "", "name": name, "size": size}


PDF_A, PDF_B, DOCX, SMITH = (
    local("a.pdf", 5),
    local("b.pdf", 6),
    local("in/c.docx", 7),
    local("Smith, John; jr.pdf", 8),
)
NAMED = {
    "one": ("a.pdf", [PDF_A]),
    "in a folder": ("in/c.docx", [DOCX]),
    "lines": ("a.pdf\nb.pdf\r\n", [PDF_A, PDF_B]),
    "comma": ("a.pdf, b.pdf", [PDF_A, PDF_B]),
    "Chinese commas": ("a.pdf，b.pdf、c.docx；", [PDF_A, PDF_B, DOCX]),
    "semicolon": ("a.pdf;b.pdf", [PDF_A, PDF_B]),
    "bar": ("a.pdf | b.pdf", [PDF_A, PDF_B]),
    "a name with separators": ("Smith, John; jr.pdf", [SMITH]),
    "… among others": ("a.pdf, Smith, John; jr.pdf,b.pdf", [PDF_A, SMITH, PDF_B]),
    "… on a line of its own": ("Smith, John; jr.pdf\na.pdf", [SMITH, PDF_A]),
    "a bar in a name": ("x|y.png", [local("x|y.png", 9, "image")]),
    "link and name": (f"{A}, a.pdf", [remote(A), PDF_A]),
    "name and link": (f"a.pdf {A}", [PDF_A, remote(A)]),
    "a comma inside a link stays": ("https://a.com/x,y.pdf, a.pdf", [remote("https://a.com/x,y.pdf"), PDF_A]),
    "the same twice": ("a.pdf,a.pdf", [PDF_A, PDF_A]),
    "list": (["a.pdf", A], [PDF_A, remote(A)]),
    "object": ([{"name": "a.pdf"}, {"url": A}], [PDF_A, remote(A)]),
}


@pytest.mark.parametrize(("entries", "files"), NAMED.values(), ids=NAMED)
def test_names_of_files(entries, files):
    assert read_files(field("file-list"), entries, FOLDER) == (files, [])


def codes(spec, entries):
    return [code for code, _ in read_files(spec, entries, FOLDER)[1]]


REFUSED = {
    "missing": ({}, "nothing.xyz", ["file_missing"]),
    "nearly": ({}, "a.pfd", ["file_missing_near"]),
    "all that are missing": ({}, "q.qqqq, a.pdf, wwww.w", ["file_missing"] * 2),
    "kind": ({"file_types": ("image",)}, "a.pdf", ["file_kind_refused"]),
    "no kind": ({}, "z.log", ["file_kind_refused"]),
    "no ending": ({}, "noending", ["file_kind_refused"]),
    "links only": ({"upload_methods": ("remote_url",)}, "a.pdf", ["file_uploads_refused"]),
    "image": ({"sizes": SIZES}, "big.png", ["file_too_large"]),
    "image that fits": ({"sizes": SIZES}, "fits.png", []),
    "audio": ({"sizes": SIZES}, "big.mp3", ["file_too_large"]),
    "text": ({"sizes": SIZES}, "big.txt", ["file_too_large"]),
    "video that fits": ({"sizes": SIZES}, "big.mp4", []),
    "limits that are not known": ({}, "big.png", []),
    "too many": ({"max_length": 1}, "a.pdf,b.pdf", ["file_too_many"]),
    "number": ({}, [5], ["file_not_url"]),
}


@pytest.mark.parametrize(("rules", "entries", "found"), REFUSED.values(), ids=REFUSED)
def test_names_that_do_not_fit(rules, entries, found):
    assert codes(field("file-list", **rules), entries) == found


def test_a_text_by_mistake_is_not_complained_of_word_by_word():
    assert len(codes(field("file-list"), ",".join(f"q{i}" for i in range(500)))) == 20


def test_what_was_expected_and_found_is_told():
    _, misfits = read_files(field("file-list", sizes=SIZES), "big.txt, a.pfd", FOLDER)
    assert misfits == [
        ("file_too_large", {"found": 15.1, "limit": 15, "name": "big.txt"}),
        ("file_missing_near", {"found": "a.pfd", "place": "docs", "near": "a.pdf, b.pdf"}),
    ]


LOOKALIKES = [
    {KEPT: "a" * 64},
    {KEPT: 5, "transfer_method": "local_file", "name": "a", "type": "document"},
    {KEPT: "a", "transfer_method": "remote_url", "name": "a", "type": "document"},
    {KEPT: "a", "transfer_method": "local_file", "name": "a"},
]


@pytest.mark.parametrize("value", LOOKALIKES)
def test_objects_that_are_no_placeholders(value):
    assert placeholders({"obj": value, "list": [value]}) == []


def test_placeholders():
    inputs = {"q": "x", "one": PDF_A, "two": [PDF_B, remote(A)], "obj": {"name": "no file"}}
    assert placeholders(inputs) == [PDF_A, PDF_B]
    changed = replaced(inputs, lambda file: {"id": file["name"]})
    assert changed == {**inputs, "one": {"id": "a.pdf"}, "two": [{"id": "b.pdf"}, remote(A)]}
    shown = {"transfer_method": "local_file", "type": "document", "name": "a.pdf"}
    assert shown_inputs(inputs)["one"] == shown
    assert read_files(field("file"), shown, FOLDER) == (PDF_A, []), "what results show, a sheet may hold"
