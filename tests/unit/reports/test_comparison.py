"""Table 1 with the systems of the report: seven rows with reasons, quoted values beside measured, never among them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from reports import comparison, make, quoted, render, spec
from reports.table import Row, Table
from talkbench.errors import TalkbenchError
from talkbench.manifests.load import load
from talkbench.mini.suite import mini_suite
from talkbench.schema import ClipRecord, ScoreRow, Suite, SystemRecord
from talkbench.stats.aggregate import known_outputs
from talkbench.store import attempts
from talkbench.store.rows import RowWriter
from talkbench.store.run import Run
from talkbench.systems import discover
from tests.support import ROOT, row

SEVEN = ["Ditto", "EchoMimic-V3", "StableAvatar", "OmniAvatar", "InfiniteTalk", "LiveAvatar", "SoulX-LiveTalk"]
FLICKER, FPS, IQA = "vbench.temporal_flickering", "speed.fps", "qalign.quality"


def run_of(path: Path, suite: Suite, systems: Sequence[str], rows: Sequence[dict[str, object]] = ()) -> Run:
    run = Run.open_or_create(path, suite)
    for name in systems:
        run.add_system(SystemRecord(name=name, kind="generated", path="x", description=f"about {name}"))
    scored = [ScoreRow.model_validate(each) for each in rows]
    for each in scored:
        run.put_clip(
            ClipRecord(
                clip_key=each.clip_key, system=each.system, item=each.item, tier=each.tier, identity=each.identity,
                path="x.mp4", size_bytes=1, modified_ns=1, sha256="0" * 64,
            )
        )  # fmt: skip
    writer = RowWriter(path / "rows")
    writer.write(scored)
    writer.close()
    return run


def scores(system: str, level: float | None, tier: str = "short") -> list[dict[str, object]]:
    """Return flicker and speed of three clips, made on one GPU."""
    made = {"device": "NVIDIA H200", "num_devices": 1}
    found: list[dict[str, object]] = []
    for n in range(3):
        value = None if level is None else level + 0.001 * n
        found.append(row(system, f"i{n}", value, tier=tier))
        found.append(
            row(
                system, f"i{n}", value and 20 * value, tier=tier, output=FPS, metric="speed", details=made,
                score_key=f"speed-{system}-{n}",
            )
        )  # fmt: skip
    return found


def short_run(path: Path) -> Run:
    rows = [*scores("ditto", 0.9), *scores("infinitetalk-lightx2v", 0.93), *scores("ours", 0.95)]
    rows += scores("omniavatar", None)
    run = run_of(path, load("short"), ["ditto", "infinitetalk-lightx2v", "ours", "omniavatar", "liveavatar"], rows)
    with attempts.Attempt(path, "liveavatar", "i0", "key") as attempt:
        attempt.failed("no-face", "no face in 90 % of the frames")
    with run.session("generate", {}, {"gpus": []}):
        pass
    return run


def table(*runs: Run, **options: object) -> Table:
    return comparison.table(runs, spec.load("table1"), "table1", **options)  # type: ignore[arg-type]


def rows_of(found: Table, block: int = 0) -> dict[str, Row]:
    return {each.label: each for each in found.blocks[block].rows}


def test_both_blocks_have_the_seven_systems_of_the_report_in_its_order(tmp_path: Path) -> None:
    found = table(short_run(tmp_path / "r"))
    assert [block.title for block in found.blocks] == ["TalkBench-Short", "TalkBench-Long"]
    short, long = ([row.label.partition(" (")[0] for row in block.rows] for block in found.blocks)
    assert short == [*SEVEN, "ours"]
    assert long == SEVEN


def test_a_row_without_a_value_says_why(tmp_path: Path) -> None:
    found = table(short_run(tmp_path / "r"))
    short, long = rows_of(found), rows_of(found, 1)
    assert (short["Ditto"].reason, short["Ditto"].coverage) == ("", "3/3")
    assert short["StableAvatar"].coverage == "not generated: needs GPU"
    assert short["LiveAvatar"].coverage == "not generated: 1 x no-face"
    assert short["OmniAvatar"].coverage == "no value: 3 x one-frame"
    assert (long["EchoMimic-V3"].coverage, long["Ditto"].coverage) == ("no long audio", "not in this run")


def test_clips_that_nobody_scored_are_told_from_clips_that_nobody_made(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r", load("short"), ["ditto", "omniavatar"])
    (tmp_path / "r" / "clips" / "ditto").mkdir(parents=True)
    (tmp_path / "r" / "clips" / "ditto" / "i0.mp4").touch()
    rows = rows_of(table(run))
    assert (rows["Ditto"].reason, rows["OmniAvatar"].reason) == ("not scored", "not generated")
    assert not any("GPU" in row.reason for row in rows.values()), "no session says that there was none"


def test_clips_that_failed_are_footnoted_beside_those_that_did_not(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r", load("short"), ["ditto"], scores("ditto", 0.9))
    for item, reason in (("i7", "timeout"), ("i8", "no-face"), ("i9", "no-face")):
        with attempts.Attempt(run.path, "ditto", item, "key") as attempt:
            attempt.failed(reason, "why")
    found = table(run)
    texts = [found.footnotes[mark] for mark in rows_of(found)["Ditto"].marks]
    assert texts == ["Not generated: 2 x no-face, 1 x timeout."]


def test_measured_and_quoted_values_stand_in_one_row_and_never_in_one_column(tmp_path: Path) -> None:
    found = table(short_run(tmp_path / "r"))
    ditto = rows_of(found)["Ditto"]
    assert (ditto.cells[FPS].value, ditto.cells[FPS].quoted) == (pytest.approx(18.02), False)
    assert (ditto.cells[f"{FPS}#quoted"].text, ditto.cells[f"{FPS}#quoted"].quoted) == ("21.80", True)
    for column in found.columns:
        kinds = {
            row.cells[column.id].quoted
            for block in found.blocks
            for row in block.rows
            if column.id in row.cells and row.cells[column.id].value is not None
        }
        assert kinds == {column.id.endswith("#quoted")}, column.id
    places = [column.id for column in found.columns]
    assert places.index(f"{FPS}#quoted") == places.index(FPS) + 1


def test_quoted_values_get_no_rank_and_give_none(tmp_path: Path) -> None:
    found = table(short_run(tmp_path / "r"))
    cells = [
        (row.label, name, cell) for block in found.blocks for row in block.rows for name, cell in row.cells.items()
    ]
    assert all(cell.rank is None for _, name, cell in cells if name.endswith("#quoted"))
    best = [(label, name) for label, name, cell in cells if cell.rank == "best"]
    assert best == [("ours", FLICKER), ("ours", FPS)], "32.00 of the report is faster, and no rival"


def test_a_variant_has_a_row_of_its_own_and_the_quoted_values_stand_in_the_first(tmp_path: Path) -> None:
    rows = [*scores("infinitetalk-lightx2v", 0.93), *scores("infinitetalk", 0.92)]
    run = run_of(tmp_path / "r", load("short"), ["infinitetalk-lightx2v", "infinitetalk"], rows)
    found = rows_of(table(run))
    assert found["InfiniteTalk"].cells[f"{FPS}#quoted"].text == "5.10"
    assert f"{FPS}#quoted" not in found["InfiniteTalk (infinitetalk-lightx2v)"].cells
    assert found["InfiniteTalk (infinitetalk-lightx2v)"].cells[FLICKER].value == pytest.approx(0.931)


def test_unreleased_weights_keep_a_column_of_their_own_beside_the_quoted_one(tmp_path: Path) -> None:
    kind = {"output": f"{IQA}@mini-domain", "metric": "qalign", "weights_kind": "mini-domain"}
    rows = [row("ditto", f"i{n}", 3.0 + n, score_key=f"q{n}", **kind) for n in range(3)]
    found = table(run_of(tmp_path / "r", load("short"), ["ditto"], rows))
    assert [c.id for c in found.columns if c.id.startswith(IQA)] == [f"{IQA}@mini-domain", f"{IQA}#quoted"]
    own = rows_of(found)["Ditto"].cells
    assert (own[f"{IQA}@mini-domain"].value, own[f"{IQA}#quoted"].value) == (4.0, 4.37)


def test_what_fps_means_and_what_clips_were_made_on_stand_under_the_table(tmp_path: Path) -> None:
    found = table(short_run(tmp_path / "r"))
    head = next(column for column in found.columns if column.id == FPS)
    assert [found.footnotes[mark] for mark in head.marks] == [f"FPS: {known_outputs()[FPS].description}"]
    assert found.footnotes["hardware"] == (
        "Made on 1 x NVIDIA H200: ditto, infinitetalk-lightx2v, omniavatar, ours. Scored on d."
    )
    quote = next(column for column in found.columns if column.id == f"{FPS}#quoted")
    assert any("8 H800" in found.footnotes[mark] for mark in quote.marks)


@pytest.mark.parametrize("kind", ["md", "tex", "html", "csv"])
def test_quoted_values_and_reasons_are_marked_in_every_format(tmp_path: Path, kind: str) -> None:
    text = render.FORMATS[kind][1](table(short_run(tmp_path / "r")))
    marked = {
        "md": "| *21.80* |", "tex": r"\emph{21.80}", "html": '<td class="quoted" data-value="21.8">21.80</td>',
        "csv": "FPS quoted,21.8,,,,,,21.80,yes",
    }  # fmt: skip
    assert marked[kind] in text
    assert "FPS quoted" in text
    assert "not generated: needs GPU" in text


def test_reasons_stand_in_the_lines_of_a_csv_file(tmp_path: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(render.comma_separated(table(short_run(tmp_path / "r"))))))
    notes = {each["system"]: each["notes"] for each in lines if each["output"] == FLICKER and "Short" in each["block"]}
    assert notes["StableAvatar"] == "not generated: needs GPU"
    assert notes["Ditto"] == ""


def test_the_terminal_says_it_too(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=220)
    make.show(make.tables(short_run(tmp_path / "r"), "table1"), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"Ditto .* 90\.10 ± \S+ +18\.02 ± \S+ +21\.80 +3/3", text)
    assert re.search(r"StableAvatar .* 0\.64 +not generated: needs GPU", text)


def test_the_short_and_the_long_run_make_one_table(tmp_path: Path) -> None:
    short = run_of(tmp_path / "s", load("short"), ["ditto"], scores("ditto", 0.9))
    long = run_of(tmp_path / "l", load("long"), ["liveavatar"], scores("liveavatar", 0.8, "long"))
    (found,) = make.tables(short, "table1", others=[long])
    assert rows_of(found)["Ditto"].cells[FLICKER].value == pytest.approx(0.901)
    assert rows_of(found, 1)["LiveAvatar"].cells[FLICKER].value == pytest.approx(0.801)
    assert rows_of(found, 1)["EchoMimic-V3"].reason == "no long audio"
    assert {"hardware s", "hardware l"} <= found.footnotes.keys()
    with pytest.raises(TalkbenchError, match="both have the tier 'short'"):
        table(short, short)
    with pytest.raises(TalkbenchError, match="give --run once"):
        make.tables(short, "drift", others=[long])


def test_chosen_systems_leave_no_empty_rows(tmp_path: Path) -> None:
    run = short_run(tmp_path / "r")
    assert list(rows_of(table(run, systems=["ours", "ditto"]))) == ["Ditto", "ours"]
    with pytest.raises(TalkbenchError, match="no system 'dito'"):
        table(run, systems=["dito"])


def test_the_demo_keeps_its_own_table_until_a_system_of_the_report_takes_part(tmp_path: Path) -> None:
    rows = [*scores("recorded", 0.9), *scores("ditto", 0.8)]
    demo = run_of(tmp_path / "demo", mini_suite(), ["recorded"], rows[:6])
    assert not comparison.applies([demo])
    assert [each.name for each in make.tables(demo, "table1")] == ["table1", "table1_quoted"]
    own = run_of(tmp_path / "own", mini_suite(), ["recorded", "ditto"], rows)
    (found,) = make.tables(own, "table1")
    assert list(rows_of(found)) == [*SEVEN, "recorded"]
    assert any("other clips than those measured" in text for text in found.footnotes.values())


def test_the_open_tier_has_the_rows_and_says_that_its_clips_are_others(tmp_path: Path) -> None:
    (found,) = make.tables(run_of(tmp_path / "r", load("open"), []), "table1")
    assert [block.title for block in found.blocks] == ["open, short", "open, long"]
    assert all(list(rows_of(found, block)) == SEVEN for block in (0, 1))
    assert any("other clips than those measured" in text for text in found.footnotes.values())


def test_a_run_without_any_value_still_shows_the_quoted_ones(tmp_path: Path) -> None:
    (found,) = make.tables(run_of(tmp_path / "r", load("short"), []), "table1")
    assert [column.label for column in found.columns] == [
        "ASE quoted", "IQA quoted", "Sync-C quoted", "Subject-C quoted", "FPS quoted"
    ]  # fmt: skip
    assert "talkbench score" in found.footnotes["*"]


def test_every_row_of_the_report_has_its_systems_and_all_of_them_need_a_gpu() -> None:
    entries = quoted.systems()
    assert [entry.label for entry in entries] == SEVEN
    specs = discover.adapters()
    for name in (name for entry in entries for name in entry.adapters):
        assert specs[name].needs.gpus >= 1, f"{name} would be said to need a GPU"
    assert all((ROOT / "reports" / "published" / "paper" / f"{name}.yaml").is_file() for name in ("table1", "systems"))
