from __future__ import annotations

import unicodedata

import pytest

from rowmill.domain.listing import Found, Listing

NFD = unicodedata.normalize("NFD", "Übersicht é.pdf")
NFC = unicodedata.normalize("NFC", NFD)

# files -> what a cell says -> the file that is meant, or the ones that it could be
MEANT = {
    "path": (["a/x.pdf", "x.pdf"], "x.pdf", "x.pdf"),
    "path in a folder": (["a/x.pdf", "x.pdf"], "a/x.pdf", "a/x.pdf"),
    "only name": (["a/b/x.pdf"], "x.pdf", "a/b/x.pdf"),
    "end of a path": (["top/a/x.pdf", "top/b/x.pdf"], "a/x.pdf", "top/a/x.pdf"),
    "longer path": (["a/x.pdf"], "C:\\Users\\me\\a\\x.pdf", "a/x.pdf"),
    "longer path, the longest fits": (["a/x.pdf", "x.pdf"], "/data/a/x.pdf", "a/x.pdf"),
    "another folder is another file": (["2024/x.pdf"], "2023/x.pdf", None),
    "backslash": (["a/x.pdf"], "a\\x.pdf", "a/x.pdf"),
    "dot": (["a/x.pdf"], "./a/x.pdf", "a/x.pdf"),
    "blanks around": (["x.pdf"], "  x.pdf ", "x.pdf"),
    "case": (["Report.PDF"], "report.pdf", "Report.PDF"),
    "case goes last": (["X.pdf", "x.pdf"], "x.pdf", "x.pdf"),
    "accents apart": ([NFD], NFC, NFD),
    "accents together": ([NFC], NFD, NFC),
    "full width": (["报告(1).pdf"], "报告（１）．pdf", "报告(1).pdf"),
    "folder in another case": (["Top/A/x.pdf"], "a/X.pdf", "Top/A/x.pdf"),
    "up and away": (["x.pdf"], "../x.pdf", "x.pdf"),
    "nothing": (["x.pdf"], "y.docx", None),
    "a folder is no file": (["a/x.pdf"], "a/", None),
    "part of a name": (["ax.pdf"], "x.pdf", None),
    "two of one name": (["a/x.pdf", "b/x.pdf"], "x.pdf", {"a/x.pdf", "b/x.pdf"}),
    "two but for case": (["X.pdf", "x.PDF"], "x.pdf", {"X.pdf", "x.PDF"}),
}


@pytest.mark.parametrize(("files", "wanted", "meant"), MEANT.values(), ids=MEANT)
def test_which_file_is_meant(files, wanted, meant):
    listing = Listing(dict.fromkeys(files, 1), "docs")
    found = listing.find(wanted)
    assert listing.knows(wanted) is (meant is not None)
    if isinstance(meant, set):
        assert (found.path, set(found.rivals)) == (None, meant)
    else:
        assert (found.path, found.rivals) == (meant, ())


def test_near_names():
    listing = Listing(dict.fromkeys(["in/report-2024.pdf", "photo.jpg"], 1), "docs")
    assert listing.find("Report2024.pdf") == Found(near=("in/report-2024.pdf",))
    assert listing.find("zzz") == Found()


def test_near_names_are_looked_for_only_so_often():
    listing = Listing({"report.pdf": 1}, "docs")
    hints = [listing.find("repart.pdf").near for _ in range(300)]
    assert hints == [("report.pdf",)] * 200 + [()] * 100


def test_no_file():
    assert not Listing({}, "docs").knows("")
    assert not Listing({"x.pdf": 1}, "docs").knows(" ")
