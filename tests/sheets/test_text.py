from __future__ import annotations

import pytest

from rowmill.domain.errors import SheetError
from rowmill.sheets.limits import Limits
from rowmill.sheets.read import Sheets
from rowmill.sheets.text import find_separator

from .conftest import read, refusal, values

CHINESE = "姓名,城市\n王小明,北京\n李雷,上海是个大城市\n"


def notes(path, **options):
    return dict(Sheets().open(path, **options).head.notes)


def test_values_stay_text(file):
    assert values(file("a.csv", b"a,b,c,d\n007,NA, x ,1.0\n")) == [("007", "NA", " x ", "1.0")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends(file, end, last):
    content = end.join([b"a,b", b"1,2", b"", b"3,4"]) + (end if last else b"")
    _, rows = read(file("a.csv", content))
    assert [(row.number, row.cells) for row in rows] == [(2, ("1", "2")), (3, (None, None)), (4, ("3", "4"))]


def test_records_with_inner_line_ends_count_once(file):
    _, rows = read(file("a.csv", b'a,b\n"one\ntwo\r\nthree",x\n5,6\n\n\n'))
    assert [(row.number, row.cells) for row in rows] == [(2, ("one\ntwo\r\nthree", "x")), (3, ("5", "6"))]


def test_the_header_is_the_first_row_with_anything(file):
    head, rows = read(file("a.csv", b"\n,,\na,b\n1,2\n"))
    assert head.headers == ("a", "b")
    assert rows[0].number == 4


def test_short_rows_are_filled_and_empty_columns_go(file):
    head, rows = read(file("a.csv", b"a,b,,\n1\n2,3,,\n"))
    assert head.headers == ("a", "b")
    assert [row.cells for row in rows] == [("1", None), ("2", "3")]
    assert read(file("b.csv", b"a,,\n1,2,\n"))[0].headers == ("a", "")


def test_a_row_wider_than_the_header(file):
    found = refusal(file("a.csv", b"a,b\n1,2\n3,4,5\n"))
    assert found == ("csv_row_too_wide", {"row": 3, "found": 3, "headers": 2})


def test_quotes(file):
    assert values(file("a.csv", b'a,b\n"x ""y"", z",\n')) == [('x "y", z', None)]


@pytest.mark.parametrize("content", [b'a,b\n1,2\n"open,3\n4,5\n', b'a,b\n1,2\n"', b'a,b\n1,2\n3,"x'])
def test_a_quote_that_never_closes(file, content):
    assert refusal(file("a.csv", content)) == ("csv_quote_open", {"row": 3})


def test_a_quote_that_swallows_a_big_file(file):
    path = file("a.csv", b'a,b\n1,"2\n' + b"3,4\n" * 500_000)
    assert refusal(path) == ("csv_field_too_long", {"row": 2, "limit": 1_000_000})


def test_a_field_or_line_too_long(file):
    limits = Limits(text_cell_chars=200_000)
    assert values(file("a.csv", b"a\n" + b"x" * 150_000 + b"\n")) == [("x" * 150_000,)]
    found = refusal(file("b.csv", b"a\n1\n" + b"x" * 200_001 + b"\n"), limits=limits)
    assert found == ("csv_field_too_long", {"row": 3, "limit": 200_000})
    found = refusal(file("c.csv", b"a\n1\n" + b"x" * 4_000_000), limits=limits)
    assert found == ("csv_field_too_long", {"row": 3, "limit": 200_000})


def test_a_nul(file):
    assert refusal(file("a.csv", b"a,b\n1,2\n3,\x00\n")) == ("csv_nul", {"row": 3})


def test_empty_and_header_only(file):
    assert refusal(file("a.csv", b"\n\n,,\n")) == ("sheet_empty", {})
    assert refusal(file("b.csv", b"a,b\n")) == ("sheet_no_rows", {})
    assert refusal(file("c.csv", b"a,b\n\n , \n")) == ("sheet_no_rows", {})


def test_too_many_columns_or_rows(file):
    path = file("a.csv", b"a,b,c\n1\n2\n3\n")
    assert refusal(path, limits=Limits(max_columns=2)) == ("sheet_too_many_columns", {"found": 3, "limit": 2})
    assert refusal(path, limits=Limits(max_rows=3)) == ("sheet_too_many_rows", {"found": 4, "limit": 3})


@pytest.mark.parametrize(
    ("codec", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("gb18030", "gb18030"),
        ("gbk", "gb18030"),
    ],
)
def test_encodings_of_chinese(file, codec, found):
    path = file("a.csv", CHINESE.encode(codec))
    head, rows = read(path)
    assert head.headers == ("姓名", "城市")
    assert rows[1].cells == ("李雷", "上海是个大城市")
    assert dict(head.notes) == {"encoding": found, "separator": "comma"}


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("big5", "姓名,說明\n王小明,這是一個測試\n陳大文,我們的資料在高雄市\n"),
        ("cp932", "名前,都市\n田中太郎,東京です\n鈴木花子,大阪にあります\n"),
        ("euc_jp", "名前,都市\n田中太郎,東京です\n鈴木花子,大阪にあります\n"),
        ("euc_kr", "이름,도시\n김철수,서울특별시\n박영희,부산광역시에서\n"),
        ("cp1252", "name,city\nJosé,Málaga\nFrançois,Orléans\nMüller,Köln\n"),
        ("cp1252", "name\ncafé\n"),
        ("cp1252", "name\nnaïve\n“quoted” – 5 €\n"),
        ("cp1251", "имя,город\nИван,Москва\nПётр,Казань\n"),
        ("cp1250", "jméno,město\nŽižka,Příbram\nŁukasz,Łódź\n"),
    ],
)
def test_other_encodings(file, codec, text):
    expected = [tuple(line.split(",")) for line in text.splitlines()[1:]]
    assert values(file("a.csv", text.encode(codec))) == expected


def test_chinese_that_appears_late(file):
    path = file("a.csv", b"a,b\n" + b"1,2\n" * 600_000 + "中文,字符\n".encode("gb18030"))
    assert notes(path)["encoding"] == "gb18030"


def test_the_encoding_can_be_said(file):
    path = file("a.csv", "a\né\n".encode("cp1250"))
    opened = Sheets().open(path, encoding="cp1251")
    assert next(opened.rows())[0].cells == ("й",)
    with pytest.raises(Exception, match="csv_encoding_name"):
        Sheets().open(path, encoding="klingon")
    with pytest.raises(Exception, match="csv_encoding_name"):
        Sheets().open(path, encoding="zlib")
    with pytest.raises(Exception, match="csv_encoding_wrong"):
        Sheets().open(path, encoding="UTF-8")
    assert notes(file("b.csv", "\ufeffa\n1\n".encode()), encoding="utf8")["encoding"] == "utf-8-sig"
    assert notes(file("c.csv", "㐂,a\n1,2\n".encode("gb18030")), encoding="GB2312")["encoding"] == "gb18030"


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1,5;2,5\n", ";"),
        ("a\tb\n1,2\t3;4\n", "\t"),
        ("a|b|c\n1|2|3\n", "|"),
        ('a;b\n"x, y\nz, z";2\n', ";"),
        ("name;comment\nx;hello, world, and more\n", ";"),
        ("just one column\nwith text; here\n", ","),
        ("a,b\n", ","),
        ("a\n1\n", ","),
        ("", ","),
        ("city, land;code\nBerlin, D;1\nParis, F;2\nRoma;3\n", ";"),
    ],
)
def test_separators(text, separator):
    assert find_separator(text, whole=True) == separator


def test_the_separator_is_told(file):
    assert notes(file("a.csv", b"a;b\n1;2\n"))["separator"] == "semicolon"


def test_tsv_is_split_at_tabs_only(file):
    path = file("a.tsv", b"a,b;c\td\n1,2\t3\n")
    assert read(path)[0].headers == ("a,b;c", "d")
    assert notes(path)["separator"] == "tab"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_that_goes_away(file, name):
    path = file(name, b'{"a": "1"}\n')
    opened = Sheets().open(path)
    path.unlink()
    with pytest.raises(SheetError) as caught:
        list(opened.rows())
    assert caught.value.code == "sheet_unreadable"


def test_reading_twice_gives_the_same(file):
    opened = Sheets().open(file("a.csv", b"a\n1\n2\n"))
    assert list(opened.rows()) == list(opened.rows())
    opened.close()


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "\ufeffsep=;", "sep=;;"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_excels_own_first_line_names_the_separator(file, first, end):
    head, rows = read(file("a.csv", f"{first}{end}a,x;b{end}1,5;2{end}".encode()))
    assert head.headers == ("a,x", "b")
    assert [(row.number, row.cells) for row in rows] == [(2, ("1,5", "2"))]


@pytest.mark.parametrize(("first", "separator"), [("sep=,", ","), ("sep=|", "|"), ("sep=\t", "\t"), ("sep=\\t", "\t")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_other_separators_on_the_first_line(file, first, separator, encoding):
    path = file("a.csv", f"{first}\na{separator}b\n1{separator}2\n".encode(encoding))
    assert values(path) == [("1", "2")]


@pytest.mark.parametrize("header", ["sep", "sep=x", "a;sep=;"])
def test_headers_that_only_look_like_it(file, header):
    assert read(file("a.csv", f"{header}\n1\n".encode()))[0].headers[0].startswith(header[:1])


def test_only_the_line_that_names_the_separator(file):
    assert refusal(file("a.csv", b"sep=;\n"))[0] == "sheet_empty"
