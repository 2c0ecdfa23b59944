"""Makes src/rowmill/testing/demo/products.xlsx: 200 products that look like a shop's own list."""

from __future__ import annotations

import itertools
from pathlib import Path

import xlsxwriter

TARGET = Path(__file__).parent.parent / "src/rowmill/testing/demo/products.xlsx"

THINGS = [
    ("Steel water bottle", "750 ml, keeps cold for 24 h, leak-proof lid"),
    ("Linen shirt", "pre-washed, mother-of-pearl buttons, regular fit"),
    ("Desk lamp", "dimmable, warm to cold white, USB-C port"),
    ("Yoga mat", "6 mm, natural rubber, carrying strap"),
    ("保温杯", "316不锈钢，500毫升，12小时保温"),
    ("Cast iron pan", "26 cm, pre-seasoned, for every stove"),
    ("Rain jacket", "10,000 mm water column, taped seams, packs small"),
    ("蓝牙耳机", "主动降噪，30小时续航，蓝牙5.3"),
    ("Notebook A5", "dotted, 100 g paper, lies flat"),
    ("Merino socks", "pack of 3, no itch, quick drying"),
]
COLOURS = ["black", "white", "navy", "olive", "sand", "red", "grey", "green", "rose", "yellow"]
TONES = ["plain", "playful", "luxury"]


def main() -> None:
    """Write the workbook; the same bytes of content every time."""
    with xlsxwriter.Workbook(TARGET, {"strings_to_formulas": False, "strings_to_urls": False}) as book:
        sheet = book.add_worksheet("Products")
        bold, text = book.add_format({"bold": True}), book.add_format({"num_format": "@"})
        sheet.write_row(0, 0, ["SKU", "Product", "Features", "Tone", "Max characters", "Emoji", "Buyer"], bold)
        sheet.freeze_panes(1, 0)
        sheet.set_column("A:A", 12, text)
        sheet.set_column("B:C", 36)
        pairs = itertools.product(range(2), enumerate(THINGS), enumerate(COLOURS))
        for row, (size, (i, (name, features)), (j, colour)) in enumerate(pairs, start=1):
            sheet.write_string(row, 0, f"00{i}{j:02}-{size}", text)
            sheet.write_string(row, 1, f"{name}, {colour}")
            sheet.write_string(row, 2, f"{features}; {'large' if size else 'standard'}")
            sheet.write_string(row, 3, TONES[(i + j + size) % 3])
            sheet.write_number(row, 4, 60 + 10 * (j % 4))
            sheet.write_boolean(row, 5, (i + j) % 2 == 0)
            sheet.write_string(row, 6, ["Ana", "Bo", "陈丽"][(i + size) % 3])


if __name__ == "__main__":
    main()
