"""Figures for papers: what stands where, in three formats."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from entoptic.errors import UserError
from entoptic.plots.drawing import Text, font
from entoptic.plots.figure import Figure, Tile
from entoptic.plots.pdf import Page
from entoptic.plots.picture_grid import Cell, Number, Row, TooNarrow, draw_flow, draw_rows

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


def cell(**more: Any) -> Cell:
    return Cell(pixels=RED, **more)


def tiles(figure: Figure) -> list[Tile]:
    return [mark for mark in figure.marks if isinstance(mark, Tile)]


def texts(figure: Figure) -> list[str]:
    return [mark.text for mark in figure.marks if isinstance(mark, Text)]


def objects(pdf: bytes) -> list[bytes]:
    """The objects of a PDF file, found by its own table."""
    start = int(pdf.rsplit(b"startxref\n", 1)[1].split()[0])
    assert pdf[start:].startswith(b"xref\n0 ")
    places = [int(line[:10]) for line in pdf[start:].splitlines()[3:] if line.endswith(b"n ")]
    for number, place in enumerate(places, 1):
        assert pdf[place:].startswith(f"{number} 0 obj\n".encode())
    return [pdf[a:b] for a, b in zip(places, [*places[1:], start])]


def content(pdf: bytes) -> str:
    body = objects(pdf)[3]
    return zlib.decompress(body.split(b"stream\n", 1)[1].rsplit(b"\nendstream", 1)[0]).decode()


@pytest.fixture
def grid() -> Figure:
    rows = [
        Row(name="golden retriever", about="logits:207", groups=[[cell(numbers=(Number(title="p", value="0.5"),))], [cell()]]),
        Row(name="church", groups=[[cell()], []]),
    ]  # fmt: skip
    return draw_rows(rows, ["vital", "maco"], width=396, title="Two (units)", description="what it shows")


def test_rows_and_columns_are_of_equal_tiles(grid: Figure) -> None:
    boxes = [tile.box for tile in tiles(grid)]
    sides = {round(box[2] - box[0], 6) for box in boxes} | {round(box[3] - box[1], 6) for box in boxes}
    assert len(boxes) == 3
    assert len(sides) == 1
    assert boxes[0][0] == boxes[2][0]  # the same method, the same column
    assert boxes[0][1] == boxes[1][1]  # the same unit, the same row
    assert "no picture" in texts(grid)
    assert grid.width <= 396


def test_nothing_lies_outside_and_no_texts_overlap(grid: Figure) -> None:
    boxes = [mark.box for mark in grid.marks if isinstance(mark, Text | Tile)]
    assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= grid.width + 5 and b[3] <= grid.height + 0.5 for b in boxes)
    written = [mark.box for mark in grid.marks if isinstance(mark, Text)]
    for i, a in enumerate(written):
        for b in written[:i]:
            apart = a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 1 or b[3] <= a[1] + 1
            assert apart, (a, b)


def test_a_pdf_has_text_an_embedded_font_and_the_pictures_pixels(grid: Figure) -> None:
    pdf = grid.pdf()
    assert grid.pdf() == pdf  # no date
    page = content(pdf)
    assert "(golden retriever) Tj" in page or "(golden) Tj" in page
    assert "(Two \\(units\\)) Tj" in page
    assert page.count(" Do Q") == 3
    held = objects(pdf)
    assert any(b"/FontFile2" in one for one in held)
    image = next(one for one in held if b"/Subtype /Image" in one)
    rows = zlib.decompress(image.split(b"stream\n", 1)[1].rsplit(b"\nendstream", 1)[0])
    assert len(rows) == 8 * (1 + 8 * 3)  # a filter and 8 pixels for each row
    assert f"/MediaBox [0 0 {grid.width:.2f} {grid.height:.2f}]".encode() in pdf


def test_a_pdf_without_pillows_font(grid: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entoptic.plots.pdf.font", lambda size: object())
    pdf = grid.pdf()
    assert b"/BaseFont /Helvetica" in pdf
    objects(pdf)


def test_a_title_of_any_script_is_in_the_properties() -> None:
    page = Page(10, 10, "Père \N{CJK UNIFIED IDEOGRAPH-732B}\ud800")
    page.text(0, 5, "Père \N{CJK UNIFIED IDEOGRAPH-732B}", 7, "#000000")
    assert b"/Title <FEFF005000E8007200650020732B>" in page.file()
    assert "(Pere ?) Tj" in content(page.file())


def test_an_svg_keeps_text_and_escapes_it() -> None:
    figure = draw_flow([cell(name="<b> & \N{CJK UNIFIED IDEOGRAPH-732B}")], 1, width=200, title="a<b")
    svg = figure.svg()
    assert "&lt;b&gt; &amp; \N{CJK UNIFIED IDEOGRAPH-732B}</text>" in svg
    assert "<b>" not in svg
    assert svg.count("<image") == 1


def test_a_png_has_its_resolution_and_the_colours(grid: Figure) -> None:
    image = Image.open(io.BytesIO(grid.png(300)))
    assert image.size == (round(grid.width * 300 / 72), round(grid.height * 300 / 72))
    assert [round(x) for x in image.info["dpi"]] == [300, 300]
    left, top, right, bottom = tiles(grid)[0].box
    assert image.getpixel((int((left + right) / 2 * 300 / 72), int((top + bottom) / 2 * 300 / 72))) == (255, 0, 0)
    assert image.getpixel((image.width - 1, image.height - 1)) == (255, 255, 255)
    assert "data:image/png" in grid._repr_html_()


def test_a_picture_that_is_not_square_keeps_its_shape() -> None:
    (tile,) = tiles(draw_flow([Cell(pixels=RED[:4])], 1, width=100))
    left, top, right, bottom = tile.inner
    assert (right - left) / (bottom - top) == pytest.approx(2)
    assert tile.box[1] < top < bottom < tile.box[3]


def test_numbers_are_never_cut_and_all_of_one_size() -> None:
    number = Number(title="percentile among photos", value="99.9 %", about=("[99.6, 99.9]", "n = 1,650"))
    figure = draw_flow([cell(numbers=(number,)) for _ in range(8)], 8, width=396)
    said = " ".join(texts(figure))
    assert said.count("[99.6, 99.9]") == said.count("n = 1,650") == said.count("99.9 %") == 8
    sizes = {mark.size for mark in figure.marks if isinstance(mark, Text)}
    assert len(sizes) == 1
    side = tiles(figure)[0].box[2] - tiles(figure)[0].box[0]
    for mark in figure.marks:
        if isinstance(mark, Text):
            assert font(100).getlength(mark.text) * mark.size / 100 <= side + 0.5
    with pytest.raises(TooNarrow, match="too small to be read"):
        draw_flow(
            [cell(numbers=(Number(title="p", value="0.5", about=("[0.000123, 0.000456]",)),))] * 14, 14, width=396
        )
    with pytest.raises(TooNarrow, match="40 pictures beside each other"):
        draw_rows([Row(name="a", groups=[[cell()] * 40])], [""], width=396)


def test_long_names_are_parted_and_shortened() -> None:
    name = "layer4.1.bn2.a_very_long_name_without_any_place_to_part:112"
    figure = draw_rows([Row(name=name, about="x" * 90, groups=[[cell()]])], ["deep-inversion-adaptive"], width=200)
    shown = texts(figure)
    assert any(text.endswith("...") for text in shown)
    assert all(font(100).getlength(text) * 7.5 / 100 <= 200 for text in shown)


@pytest.mark.parametrize("name", ["a.pdf", "b.PNG", "c.svg", "new/d.pdf"])
def test_a_figure_is_saved_by_its_ending(grid: Figure, tmp_path: Path, name: str) -> None:
    assert grid.save(tmp_path / name) == tmp_path / name
    begins = {"pdf": b"%PDF-1.4", "PNG": b"\x89PNG", "svg": b"<svg"}[name.rpartition(".")[2]]
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert not list(tmp_path.rglob("*.part"))


def test_a_figure_that_cannot_be_saved_is_refused(grid: Figure, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'not as "a.jpg"'):
        grid.save(tmp_path / "a.jpg")
    (tmp_path / "b.pdf").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        grid.save(tmp_path / "b.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        grid.save(tmp_path / "file" / "c.pdf")
    for dpi in (0, 5000):
        with pytest.raises(UserError, match="dpi must be"):
            grid.png(dpi)
    with pytest.raises(UserError, match="too large"):
        Figure(7200, 7200, "t").png(1200)
    assert re.search(r"<desc>what it shows</desc>", grid.svg())
