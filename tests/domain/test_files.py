from __future__ import annotations

import pytest

from rowmill.domain.files import KINDS, kind_of, read_files

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
    assert read_files(field("file-list"), entries) == ([remote(link) for link in links], None)


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
    value, misfit = read_files(field(kind), entries)
    assert (value, misfit[0]) == (None, "file_not_url")


def test_no_link_shows_60_characters():
    assert read_files(field("file"), "x" * 100) == (None, ("file_not_url", {"found": "x" * 60}))


ONE = {
    "one": (A, remote(A), None),
    "none": ([], None, ("file_only_one", {"found": 0})),
    "none between bars": ("|", None, ("file_only_one", {"found": 0})),
    "two": ([A, B], None, ("file_only_one", {"found": 2})),
}


@pytest.mark.parametrize(("entries", "value", "misfit"), ONE.values(), ids=ONE)
def test_one_file(entries, value, misfit):
    assert read_files(field("file", max_length=9), entries) == (value, misfit)


COUNTS = {"as many": (2, 2, False), "one more": (2, 3, True), "no limit": (None, 50, False), "0": (0, 50, False)}


@pytest.mark.parametrize(("limit", "count", "too_many"), COUNTS.values(), ids=COUNTS)
def test_number_of_files(limit, count, too_many):
    value, misfit = read_files(field("file-list", max_length=limit), [A] * count)
    if too_many:
        assert (value, misfit) == (None, ("file_too_many", {"limit": limit, "found": count}))
    else:
        assert (len(value), misfit) == (count, None)


METHODS = {
    "not said": ((), None),
    "links": (("remote_url",), None),
    "both": (("local_file", "remote_url"), None),
    "uploads only": (("local_file",), ("file_links_refused", {})),
}


@pytest.mark.parametrize(("methods", "misfit"), METHODS.values(), ids=METHODS)
def test_upload_methods(methods, misfit):
    assert read_files(field("file", upload_methods=methods), A)[1] == misfit


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
    value, misfit = read_files(field("file", file_types=types, file_extensions=endings), link)
    if kind is None:
        assert (value, misfit[0]) == (None, "file_kind_refused")
    else:
        assert (value, misfit) == (remote(link, kind), None)


def test_kind_refused_names_what_is_allowed():
    _, misfit = read_files(field("file", file_types=("image", "audio")), A)
    assert misfit == ("file_kind_refused", {"found": ".pdf", "allowed": ("image", "audio")})


def test_scheme_is_written_small():
    assert read_files(field("file"), "HTTPS://A.com/X.pdf")[0]["url"] == "https://A.com/X.pdf"
