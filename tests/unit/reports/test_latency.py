"""Table 4 and Figure 6: measured, predicted and quoted times stay apart, and every row says what it is."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from matplotlib.patches import Rectangle

from reports import cycles, html, latency, make, quoted, spec
from reports.table import Cell, Table
from talkbench.errors import TalkbenchError
from talkbench.manifests.load import FOLDER
from talkbench.schema import ProfileRecord
from talkbench.store.run import Run
from tests.unit.reports.profiles import H200, profile


def stored(path: Path, *records: ProfileRecord) -> Run:
    run = Run.open_or_create(path, FOLDER)
    for record in records:
        run.put_profile(record)
    return run


def measured(run: Run) -> Table:
    return latency.table(run, spec.load("table4"), "table4")


def cell(table: Table, block: int, row: int, column: str) -> Cell:
    return table.blocks[block].rows[row].cells[column]


def test_a_row_per_count_with_eager_and_compiled_side_by_side(tmp_path: Path) -> None:
    records = [profile(n, 0.8 / n / (1 + 0.25 * on), compiled=on, **H200) for n in (1, 2, 8) for on in (False, True)]
    table = measured(stored(tmp_path / "r", *records))
    (block,) = table.blocks
    assert [row.label for row in block.rows] == ["1", "2", "8"]
    assert table.row_head == "GPUs"
    assert [column.id for column in table.columns] == [
        "dit_step_eager", "dit_step_compiled", "decode", "encode", "cycle", "fps",
    ]  # fmt: skip
    assert (cell(table, 0, 0, "dit_step_eager").value, cell(table, 0, 0, "dit_step_compiled").value) == (0.8, 0.64)
    assert cell(table, 0, 0, "dit_step_eager").text == "800"
    assert cell(table, 0, 2, "decode").value == pytest.approx(1.2 * 0.08), "of the compiled network"
    assert table.footnotes == {}


def test_a_mode_that_was_not_run_has_no_column_and_mixed_rows_say_which(tmp_path: Path) -> None:
    eager = measured(stored(tmp_path / "a", profile(1, 0.5)))
    assert "dit_step_compiled" not in [column.id for column in eager.columns]
    mixed = measured(stored(tmp_path / "b", profile(1, 0.5), profile(1, 0.4, compiled=True), profile(2, 0.3)))
    marks = cell(mixed, 0, 1, "cycle").marks
    assert [mixed.footnotes[mark] for mark in marks] == [latency.EAGER]
    assert cell(mixed, 0, 0, "cycle").marks == ()


def test_predictions_stand_in_a_block_of_their_own_with_what_they_rest_on(tmp_path: Path) -> None:
    basis = {"dit_step": "one rank measured", "decode": "one rank measured", "audio": "measured on one GPU"}
    run = stored(tmp_path / "r", profile(1, 0.5, **H200), profile(8, 0.1, predicted=True, basis=basis, **H200))
    table = measured(run)
    assert [block.title.endswith(", predicted") for block in table.blocks] == [False, True]
    found = cell(table, 1, 0, "dit_step_eager")
    told = [table.footnotes[mark] for mark in found.marks]
    assert told == [
        "Predicted, not measured. DiT step, decode: one rank measured; speech features: measured on one GPU."
    ]
    assert all(c.marks for c in table.blocks[1].rows[0].cells.values() if c.value is not None)
    assert not any(c.marks for c in table.blocks[0].rows[0].cells.values())


def test_nothing_is_ranked(tmp_path: Path) -> None:
    run = stored(
        tmp_path / "r", *(profile(n, 0.5 / n, **H200) for n in (1, 2)), profile(4, 0.1, predicted=True, **H200)
    )
    assert all(c.rank is None for block in measured(run).blocks for row in block.rows for c in row.cells.values())


def test_a_prediction_gives_way_to_a_measurement(tmp_path: Path) -> None:
    run = stored(tmp_path / "r", profile(2, 0.9, predicted=True, **H200), profile(2, 0.3, **H200))
    assert [record.origin for record in latency.profiles(run)] == ["measured"]


def test_processors_and_random_weights_are_marked(tmp_path: Path) -> None:
    run = stored(tmp_path / "r", profile(1, 0.012, weights_kind="random"), profile(2, 0.5, **H200))
    table = measured(run)
    assert table.row_head == "GPUs or processes"
    assert "Some CPU, float32, 720x416" in table.caption
    assert "NVIDIA H200, bfloat16" in table.caption
    marked = {block.title: {table.footnotes[m] for m in block.rows[0].marks} for block in table.blocks}
    assert marked == {
        "soulx-livetalk on NVIDIA H200, bfloat16, 720x416": set(),
        "soulx-livetalk on Some CPU, float32, 720x416": {latency.WEIGHTS["random"], latency.ON_CPU},
    }


def test_small_times_keep_two_significant_digits(tmp_path: Path) -> None:
    table = measured(stored(tmp_path / "r", profile(1, 0.012)))
    assert cell(table, 0, 0, "dit_step_eager").text == "12.0"
    assert cell(table, 0, 0, "encode").text == "1.20"


def test_a_run_without_profiles_says_how_to_get_them_and_still_quotes(tmp_path: Path) -> None:
    run = stored(tmp_path / "r")
    with pytest.raises(TalkbenchError, match="talkbench profile SYSTEM --out"):
        measured(run)
    tables = make.tables(run, "table4")
    assert "talkbench profile SYSTEM" in tables[0].caption
    assert tables[1].title.endswith("(quoted)")


def test_all_formats_carry_measured_and_quoted_values(tmp_path: Path) -> None:
    run = stored(tmp_path / "r", profile(1, 0.5, **H200), profile(8, 0.1, predicted=True, **H200))
    paths = make.write(make.tables(run, "table4"), tmp_path / "out", ["md", "tex", "csv", "html"])
    texts = [path.read_text() for path in paths]
    assert all("988" in text and "predicted" in text for text in texts)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "table4.csv").read_text())))
    assert {row["quoted"] for row in rows} == {"yes", "no"}
    assert [float(row["value"]) for row in rows if row["output"] == "dit_step_eager"][:2] == [0.5, 0.1]


def test_a_bar_is_as_long_as_the_cycle_and_the_published_one_stands_below(tmp_path: Path) -> None:
    records = [profile(1, 0.5, **H200), profile(8, 0.1, predicted=True, **H200)]
    (axes,) = cycles.figure(records).axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(bars) == 3 * len(cycles.PARTS)
    lengths = [sum(bar.get_width() for bar in bars[n : n + 5]) for n in (0, 5, 10)]
    assert lengths == pytest.approx([1e3 * records[0].cycle.p50_seconds, 1e3 * records[1].cycle.p50_seconds, 876])
    assert [bool(bar.get_hatch()) for bar in bars[::5]] == [False, True, False], "only what is predicted is hatched"
    texts = [text.get_text().strip() for text in axes.texts]
    assert "8 GPUs, eager, predicted" in texts
    assert "876 ms, 32.0 FPS" in texts
    assert "8 H800 (quoted)" in texts


def test_the_published_cycle_adds_up() -> None:
    found = quoted.cycle()
    assert sum(found.components.values()) == found.cycle == 876
    assert set(found.components) == set(cycles.PARTS)


def test_the_figure_is_written_in_every_format_the_same_each_time(tmp_path: Path) -> None:
    run = stored(tmp_path / "r", profile(1, 0.02), profile(2, 0.015))
    first = [path.read_bytes() for path in cycles.write(run, tmp_path / "a", ["svg", "png"])]
    assert first == [path.read_bytes() for path in cycles.write(run, tmp_path / "b", ["svg", "png"])]
    with pytest.raises(TalkbenchError, match="unknown figure format 'jpg'"):
        cycles.write(run, tmp_path, ["jpg"])
    with pytest.raises(TalkbenchError, match="no profile"):
        cycles.write(stored(tmp_path / "s"), tmp_path, ["svg"])


def test_the_page_shows_the_profiles_of_a_run_without_clips(tmp_path: Path) -> None:
    page = html.write_page(stored(tmp_path / "r", profile(1, 0.5, **H200)), tmp_path / "page").read_text()
    assert page.count("soulx-livetalk on NVIDIA H200, bfloat16, 720x416") >= 1
