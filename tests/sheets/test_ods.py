# ruff: noqa: E501 - cells of a sheet have no time zone; markup is easier to read in one line
from __future__ import annotations

import datetime as dt
import zipfile

from rowmill.domain.cell import CellError

from .conftest import read, refusal

CONTENT = """<?xml version="1.0" encoding="UTF-8"?><office:document-content
xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"
xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
xmlns:calcext="urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0"
xmlns:of="x" office:version="1.3"><office:body><office:spreadsheet><table:table table:name="S1"><table:table-column/>
<table:table-row table:number-rows-repeated="2"><table:table-cell table:number-columns-repeated="2"/></table:table-row>
<table:table-row><table:table-cell/><table:table-cell office:value-type="string"><text:p>h1</text:p></table:table-cell><table:table-cell office:value-type="string"><text:p>h2</text:p><text:p>l2</text:p></table:table-cell></table:table-row>
<table:table-row><table:table-cell/><table:table-cell table:formula="of:=1/0" office:value-type="string" office:string-value="" calcext:value-type="error"><text:p>#DIV/0!</text:p></table:table-cell><table:table-cell table:formula="of:=NA()" office:value-type="float" office:value="0" calcext:value-type="error"><text:p>#N/A</text:p></table:table-cell></table:table-row>
<table:table-row><table:table-cell/><table:table-cell office:value-type="string"><text:p>#N/A</text:p></table:table-cell><table:table-cell office:value-type="float" office:value="3"/></table:table-row>
<table:table-row><table:table-cell/><table:table-cell office:value-type="date" office:date-value="2024-01-02"/><table:table-cell office:value-type="time" office:time-value="PT30H05M00S"/><table:table-cell office:value-type="boolean" office:boolean-value="true"/></table:table-row>
<table:table-row><table:table-cell/><table:table-cell office:value-type="date" office:date-value="2024-01-02T03:04:05"/><table:table-cell office:value-type="percentage" office:value="0.5"/><table:table-cell table:formula="of:=1/0" office:value-type="string" office:string-value="" calcext:value-type="error" table:number-columns-repeated="2"><text:p>Err:502</text:p></table:table-cell></table:table-row>
</table:table></office:spreadsheet></office:body></office:document-content>"""


def _ods(path, content=CONTENT, manifest=""):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        name = "urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"
        archive.writestr(
            "META-INF/manifest.xml", f'<manifest:manifest xmlns:manifest="{name}">{manifest}</manifest:manifest>'
        )
        archive.writestr("content.xml", content)
    return path


def test_an_ods_file(tmp_path):
    head, rows = read(_ods(tmp_path / "a.ods"))
    assert (head.sheet_name, head.headers) == ("S1", ("", "h1", "h2 l2", "", ""))
    assert [(row.number, row.cells[1:]) for row in rows] == [
        (4, (CellError("#DIV/0!"), CellError("#N/A"), None, None)),
        (5, ("#N/A", 3, None, None)),
        (6, (dt.date(2024, 1, 2), dt.timedelta(hours=30, minutes=5), True, None)),
        (7, (dt.datetime(2024, 1, 2, 3, 4, 5), 0.5, CellError("Err:502"), CellError("Err:502"))),
    ]


def test_an_ods_file_under_another_name(tmp_path):
    assert len(read(_ods(tmp_path / "a.xlsx"))[1]) == 4


def test_the_endless_empty_cells_that_libreoffice_writes(tmp_path):
    cells = '<table:table-cell table:number-columns-repeated="16379"/></table:table-row>'
    rows = f'<table:table-row table:number-rows-repeated="1048569"><table:table-cell/>{cells}</table:table>'
    endless = CONTENT.replace("</table:table-row>", cells).replace("</table:table>", rows)
    assert read(_ods(tmp_path / "a.ods", endless)) == read(_ods(tmp_path / "b.ods"))


def test_an_encrypted_ods_file(tmp_path):
    entry = '<manifest:file-entry manifest:full-path="content.xml"><manifest:encryption-data/></manifest:file-entry>'
    assert refusal(_ods(tmp_path / "a.ods", manifest=entry)) == ("sheet_encrypted", {})


def test_an_error_repeated_a_million_times(tmp_path):
    repeated = CONTENT.replace(
        'table:number-columns-repeated="2"><text:p>Err', 'table:number-columns-repeated="9000000"><text:p>Err'
    )
    assert repeated != CONTENT
    assert refusal(_ods(tmp_path / "a.ods", repeated))[0] in {"sheet_too_many_columns", "sheet_too_big_to_read"}
