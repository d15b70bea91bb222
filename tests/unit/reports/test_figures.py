"""Figures are pure functions of tables: same table, same bytes; one dot per value; themes and tooltips in the SVG."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from reports import build, figures, spec
from reports.table import Block, Cell, Column, Row, Table
from talkbench.errors import TalkbenchError
from talkbench.store.run import Run

FLICKER = Column("vbench.temporal_flickering", "Temporal-F", better="higher", scale=100)
FPS = Column("speed.fps", "FPS", better="higher")


def table(*labels: str) -> Table:
    """Return two tiers; the last system has no value in the second."""

    def cells(n: int) -> dict[str, Cell]:
        value = 0.9 + 0.01 * n
        return {
            FLICKER.id: Cell(f"{100 * value:.2f} ± 0.50", value, value - 0.005, value + 0.005, 3, 3),
            FPS.id: Cell(f"{8 * (n + 1)}.00", 8.0 * (n + 1), None, None, 3, 3),
        }

    first = tuple(Row(label, cells(n)) for n, label in enumerate(labels))
    second = (*first[:-1], Row(labels[-1], {FLICKER.id: Cell("–"), FPS.id: Cell("–")}))
    return Table("table1", "Title", "", (FLICKER, FPS), (Block("Short", first), Block("Long", second)))


def dots(figure: object) -> list[str]:
    axes = figure.axes[0]  # type: ignore[attr-defined]
    return [line.get_gid() for line in axes.lines if line.get_gid()]


def test_every_value_has_one_dot_that_says_its_numbers() -> None:
    figure = figures.interval_panel(table("ours", "theirs", "last"), FLICKER)
    tips = dots(figure)
    assert len(tips) == 5
    assert "ours, Short: 90.00 ± 0.50 (3 of 3 clips)" in tips[0]


def test_axes_show_printed_units_and_keep_the_order_of_systems() -> None:
    figure = figures.interval_panel(table("ours", "theirs"), FLICKER)
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert 85 < low < 90 < 91 < high < 95
    assert axes.get_ylim() == (1.5, -0.5), "the first system is on top"


def test_speed_has_a_logarithmic_axis_and_only_systems_with_a_speed() -> None:
    figure = figures.quality_speed(table("ours", "theirs", "last"), FLICKER, 1)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [tip.split(":")[1] for tip in dots(figure)] == ["ours", "theirs"]


def test_all_columns_share_one_list_of_systems_in_print() -> None:
    figure = figures.intervals(table("ours", "theirs"))
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert (len(figure.axes), texts.count("ours")) == (2, 1)


def test_curves_over_time_have_one_line_per_system() -> None:
    figure = figures.drift("Temporal-F", 100, [("a", 0, 1.0, [0.9, None, 0.8]), ("b", 1, 1.0, [0.7])])
    (axes,) = figure.axes
    assert len(axes.lines) == 2
    assert list(axes.lines[0].get_xdata()) == [0.5, 1.5, 2.5]  # type: ignore[arg-type]


def test_the_same_table_gives_the_same_bytes() -> None:
    first, second = (figures.inline(figures.interval_panel(table("a", "b"), FLICKER), "f", "d") for _ in range(2))
    assert first == second


def test_inline_figures_follow_the_theme_and_do_not_share_ids() -> None:
    one, two = (figures.inline(figures.interval_panel(table("a", "b"), FLICKER), name, "d") for name in ("one", "two"))
    assert not re.search(r"(fill|stroke): #", one), "every colour is a variable of the page"
    assert "var(--s0)" in one
    assert "font-family: var(--sans)" in one
    ids = [set(re.findall(r'\bid="([^"]*)"', text)) for text in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r"url\(#([^)]*)\)", text)) | set(re.findall(r'href="#([^"]*)"', text)) <= own


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "$a_b$ $", 'quo"te', "日本語", "a" * 300, "#2f5fc4 font-family: x"]
)
def test_any_name_is_drawn_as_it_stands(name: str) -> None:
    drawn = table(name, "other")
    text = figures.inline(figures.interval_panel(drawn, FLICKER), "f", figures.describe(drawn, FLICKER))
    root = ET.fromstring(text)
    assert any(title.text and title.text.startswith(f"{name}, Short") for title in root.iter("title"))
    assert name in root.attrib["aria-label"]
    assert root.find(".//script") is None
    figures.inline(figures.quality_speed(drawn, FLICKER), "f", "d")


def test_files_of_every_format_are_written_for_a_run(small_run: Run, tmp_path: Path) -> None:
    paths = figures.write(small_run, tmp_path / "figures", ["svg", "png", "pdf"])
    names = {path.name for path in paths}
    assert {"intervals.svg", "intervals.png", "intervals.pdf", "drift-vbench.temporal_flickering-long.png"} <= names
    assert all(path.stat().st_size > 1000 for path in paths)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == names, "no temporary file stays"


def test_an_unknown_format_is_refused_before_anything_is_drawn(small_run: Run, tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match=r"unknown figure format 'pgn'\. Did you mean"):
        figures.write(small_run, tmp_path, ["pgn"])
    assert not list(tmp_path.glob("*.png"))


def test_panels_of_a_real_table_can_be_described(small_run: Run) -> None:
    measured = build.table(small_run, spec.load("table1"), "table1")
    assert "ours 95" in figures.describe(measured, measured.columns[0])
    assert next(column.id for column in figures.speed_columns(measured)) == FLICKER.id
