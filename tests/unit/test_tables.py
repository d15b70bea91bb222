"""Tables as objects and as text: ranks with ties, coverage, escaping, every format."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from reports import build, make, quoted, render, spec
from reports.table import Block, Cell, Column, Footnotes, Row, Table
from talkbench.errors import TalkbenchError
from talkbench.schema import ClipRecord, ScoreRow, SystemRecord
from talkbench.store.rows import RowWriter
from talkbench.store.run import Run
from tests.support import row
from tests.unit.stats.test_stats import suite

FLICKER = "vbench.temporal_flickering"
NASTY = "<script>alert('x')</script> & 100 % _$#{}~^\\ | *a* `b` ±"


def stored(path: Path, rows: list[dict]) -> Run:
    """Write rows into a run folder, with the records they need."""
    items = sorted({r["item"] for r in rows})
    run = Run.open_or_create(path, suite(items))
    for r in rows:
        run.add_system(SystemRecord(name=r["system"], kind="folder", path="x"))
        run.put_clip(
            ClipRecord(
                clip_key=r["clip_key"], system=r["system"], item=r["item"], tier=r["tier"], identity=r["identity"],
                path=f"{r['item']}.mp4", size_bytes=1, modified_ns=1, sha256="0" * 64,
            )
        )  # fmt: skip
    writer = RowWriter(path / "rows")
    writer.write([ScoreRow.model_validate(r) for r in rows])
    writer.close()
    return run


def twelve(system: str, level: float, **changes: object) -> list[dict]:
    return [row(system, f"i{i}", level + 0.001 * i, **changes) for i in range(12)]


def measured(run: Run, **options: object) -> Table:
    return build.table(run, spec.load("table1"), "table1", **options)  # type: ignore[arg-type]


def cell(table: Table, system: str, output: str = "vbench.temporal_flickering") -> Cell:
    return next(r.cells[output] for block in table.blocks for r in block.rows if r.label == system)


def test_best_and_second_are_marked_and_ties_share_a_place(tmp_path: Path) -> None:
    noisy = [row("b", f"i{i}", 0.95 + 0.001 * i + (0.004 if i % 2 else -0.004)) for i in range(12)]
    table = measured(stored(tmp_path / "r", [*twelve("a", 0.95), *noisy, *twelve("c", 0.9), *twelve("d", 0.8)]))
    assert [cell(table, s).rank for s in "abcd"] == ["best", "best", "second", None]
    assert cell(table, "a").text == "95.55 ± 0.22"


def test_no_rank_where_all_are_equal_or_alone(tmp_path: Path) -> None:
    alone = measured(stored(tmp_path / "r", twelve("a", 0.9)))
    equal = measured(stored(tmp_path / "s", [*twelve("a", 0.9), *twelve("b", 0.9)]))
    assert cell(alone, "a").rank is None
    assert cell(equal, "a").rank is cell(equal, "b").rank is None


def test_an_amount_of_motion_has_no_rank(tmp_path: Path) -> None:
    rows = [r for s, v in (("a", 1.0), ("b", 5.0)) for r in twelve(s, v, output="motion.amount", metric="motion")]
    table = measured(stored(tmp_path / "r", rows))
    assert [cell(table, s, "motion.amount").rank for s in "ab"] == [None, None]


def test_what_a_system_must_be_read_with_is_footnoted(tmp_path: Path) -> None:
    run = stored(tmp_path / "r", [*twelve("a", 0.9), *twelve("b", 0.9)])
    run.add_system(SystemRecord(name="b", kind="generated", path="x", caution="Random weights."))
    table = measured(run)
    marks = {r.label: [table.footnotes[mark] for mark in r.marks] for r in table.blocks[0].rows}
    assert marks == {"a": [], "b": ["Random weights."]}


def test_a_still_system_is_footnoted(tmp_path: Path) -> None:
    rows = [*twelve("a", 0.9), *twelve("still", 1.0 - 0.02)]
    rows += [r | {"value": 0.0} for r in twelve("still", 0, output="motion.amount", metric="motion", score_key="m")]
    table = measured(stored(tmp_path / "r", rows))
    marks = next(r.marks for r in table.blocks[0].rows if r.label == "still")
    assert "Stands still" in table.footnotes[marks[0]]


def test_missing_clips_are_counted_with_their_reason_in_a_footnote(tmp_path: Path) -> None:
    rows = [*twelve("a", 0.9), *twelve("b", 0.8)[:9], *[row("b", f"i{i}", None) for i in (9, 10, 11)]]
    table = measured(stored(tmp_path / "r", rows))
    notes = " ".join(table.footnotes[mark] for mark in cell(table, "b").marks)
    assert "9 of 12 clips have a value (3 one-frame)" in notes
    assert cell(table, "b", f"{FLICKER}#worst").value == pytest.approx(sum(0.8 + 0.001 * i for i in range(9)) / 12)
    assert cell(table, "a", f"{FLICKER}#worst").value == cell(table, "a").value
    assert next(r.clips for r in table.blocks[0].rows if r.label == "b") == "9/12"


def test_columns_without_values_are_named_with_the_reason(tmp_path: Path) -> None:
    table = measured(stored(tmp_path / "r", twelve("a", 0.9)))
    assert [c.label for c in table.columns] == ["Temporal-F"]
    assert "FPS (not scored)" in table.footnotes["*"]


def test_a_run_without_any_value_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="talkbench score CLIPS"):
        measured(stored(tmp_path / "r", [row("a", "i0", None)]))
    with pytest.raises(TalkbenchError, match="no system 'x'"):
        measured(stored(tmp_path / "s", twelve("a", 0.9)), systems=["x"])


def nasty() -> Table:
    columns = (Column("x", f"Col {NASTY}", better="higher"), Column("y", "Y", better="zero"))
    notes = Footnotes()
    cells = {
        "x": Cell("1.00 ± 0.10", 1.0, 0.9, 1.1, 3, 4, rank="best", marks=(notes.mark(NASTY),)),
        "y": Cell("2", 2.0, rank="second"),
    }
    return Table(
        "t",
        NASTY,
        NASTY,
        columns,
        (Block(NASTY, (Row(NASTY, cells, "3/4"), Row("b", {}))), Block("B", ())),
        footnotes=notes.texts,
    )


def test_html_escapes_everything_and_carries_values() -> None:
    text = render.page_table(nasty())
    assert "<script>" not in text
    assert '<td class="best" data-value="1.0" title="3 of 4 clips">1.00 ± 0.10<sup>a</sup></td>' in text


def test_latex_compiles_in_principle() -> None:
    text = render.latex(nasty())
    assert r"\textbf{1.00 $\pm$ 0.10}" in text
    assert r"\underline{2}" in text
    body = text.partition(r"\midrule")[2]
    rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 3 for line in rows)
    assert not re.search(r"(?<!\\)[#%]", text)
    assert text.count("{") == text.count("}")


def test_markdown_keeps_its_columns_and_shows_ranks() -> None:
    lines = [line for line in render.markdown(nasty()).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert any("**1.00 ± 0.10**<sup>a</sup>" in line for line in lines)


def test_csv_is_read_back_at_full_precision() -> None:
    rows = list(csv.DictReader(io.StringIO(render.comma_separated(nasty()))))
    assert rows[0]["system"] == NASTY
    assert (float(rows[0]["value"]), float(rows[0]["low"]), rows[0]["rank"], rows[0]["quoted"]) == (
        1.0,
        0.9,
        "best",
        "no",
    )
    assert rows[0]["notes"] == NASTY


def test_the_terminal_shows_all_without_interpreting_markup() -> None:
    console = Console(file=io.StringIO(), width=400)
    console.print(render.terminal(nasty()))
    assert "[bold]" not in console.file.getvalue()
    assert NASTY in console.file.getvalue()


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4"])
def test_quoted_tables_are_marked_and_never_ranked(name: str) -> None:
    table = quoted.table(name)
    cells = [c for block in table.blocks for r in block.rows for c in r.cells.values()]
    assert "quoted" in table.title
    assert any(c.quoted for c in cells)
    assert all(c.rank is None for c in cells)
    assert all(c.quoted for c in cells)


def test_the_reports_own_inconsistencies_are_listed() -> None:
    found = " ".join(f"{f.what} {f.text} {f.table} {f.comment}" for f in quoted.findings())
    for evidence in ("3.50", "3.51", "1.61", "1.47", "1.2k", "200", "0.53", "LiveAvatar"):
        assert evidence in found


def test_measured_and_quoted_values_never_share_a_table(tmp_path: Path) -> None:
    tables = make.tables(stored(tmp_path / "r", twelve("a", 0.9)), "table1")
    kinds = [
        {c.quoted for block in table.blocks for r in block.rows for c in r.cells.values() if c.value is not None}
        for table in tables
    ]
    assert sorted(map(sorted, kinds)) == [[False], [True]]


def test_all_formats_are_written_and_unknown_ones_suggested(tmp_path: Path) -> None:
    tables = make.tables(stored(tmp_path / "r", twelve("a", 0.9)), "table1")
    paths = make.write(tables, tmp_path / "out", ["md", "tex", "csv", "html"])
    assert [p.name for p in paths] == ["table1.md", "table1.tex", "table1.csv", "table1.html"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "table1.csv").read_text())))
    assert {r["quoted"] for r in rows} == {"yes", "no"}
    with pytest.raises(TalkbenchError, match="Did you mean 'tex'"):
        make.write(tables, tmp_path, ["latex"])


def test_an_unknown_report_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="Did you mean 'table1'"):
        spec.load("tabel1")
    (tmp_path / "mine.yaml").write_text("title: Mine\ncaption: c\noutputs: [vbench.temporal_flickering]\n")
    assert spec.load(str(tmp_path / "mine.yaml")).title == "Mine"
    (tmp_path / "bad.yaml").write_text("title: Mine\ncolour: red\n")
    with pytest.raises(TalkbenchError, match="not a report spec"):
        spec.load(str(tmp_path / "bad.yaml"))


def test_every_output_of_every_spec_has_a_label() -> None:
    from talkbench.stats.aggregate import known_outputs

    for name in ("table1", "drift", "speed"):
        loaded = spec.load(name)
        assert all(output in known_outputs() or output in loaded.labels for output in loaded.outputs)
