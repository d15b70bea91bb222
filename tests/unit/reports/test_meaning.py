"""How to read the columns: the evidence comes from the run's own rows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reports import meaning, render, responses
from reports.table import Block, Cell, Column, Row, Table
from talkbench.errors import TalkbenchError
from tests.support import row


def here(columns: str, rows: list[dict[str, Any]]) -> str:
    return next(reading.here for reading in meaning.readings(rows) if reading.columns.startswith(columns))


def test_protocols_are_set_side_by_side_and_never_averaged_together() -> None:
    rows = [row("a", "i", 3.0, output="sync.confidence"), row("a", "i", 1.0, output="sync.frame.confidence")]
    assert here("Sync-C", rows) == "Mean over all clips: Sync-C 3.00 (1 clips); Sync-C (frame) 1.00 (1 clips)."


def test_scores_without_an_opinion_behind_them_are_counted() -> None:
    rows = [
        row("a", item, 3.0, output="qalign.quality", details={"uninformative": {"qalign.quality": guess}})
        for item, guess in (("x", True), ("y", False))
    ]
    assert here("IQA", rows) == "IQA: 1 of 2 clips no better than a guess."


def test_what_stands_still_is_shown_beside_the_best_that_moves() -> None:
    rows = [
        row(system, "i", value, output=output)
        for system, moves, steady in (("photo", 0.0, 1.0), ("ours", 2.0, 0.99), ("theirs", 2.0, 0.98))
        for output, value in (("motion.amount", moves), ("vbench.temporal_flickering", steady))
    ]
    assert here("Subject-C, BG-C", rows) == "Temporal-F: photo 100.00; the best that moves (ours) 99.00."


def test_both_official_means_are_given() -> None:
    rows = [
        row("a", item, value, output="vbench.subject_consistency", details={"num_terms": terms})
        for item, value, terms in (("short", 1.0, 10), ("long", 0.5, 90))
    ]
    assert "75.000 over clips, 55.000 over frames" in here("Subject-C and BG-C", rows)


def test_without_rows_nothing_is_claimed() -> None:
    assert {reading.here for reading in meaning.readings([])} == {
        meaning.NO_EVIDENCE,
        "No system of this run stands still.",
    }


def test_a_wide_table_is_printed_in_parts_that_fit() -> None:
    columns = tuple(Column(f"c{n}", f"Column {n}") for n in range(9))
    cells = {column.id: Cell("12.34 ± 0.56") for column in columns}
    table = Table("t", "Title", "Caption.", columns, (Block("b", (Row("system", cells),)),))
    console = Console(width=60, file=io.StringIO())
    console.print(render.terminal(table))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert sum("12.34 ± 0.56" in line for line in lines) > 1
    assert "\n".join(lines).count("12.34 ± 0.56") == 9


def test_response_curves_are_drawn_from_what_validity_stored(make_run: Callable[..., Any], tmp_path: Path) -> None:
    run = make_run().run
    with pytest.raises(TalkbenchError, match="talkbench validity"):
        responses.write(run, tmp_path, ["svg"])
    step = {"level": 1, "change": -0.01, "low": -0.02, "high": -0.005, "num_clips": 4, "num_lost": 0}
    verdict = {"output": "vbench.temporal_flickering", "degradation": "noise", "must": "worsen", "as_is": 0.9,
               "steps": [step], "passed": True, "why": ""}  # fmt: skip
    (run.path / "validity.json").write_text(json.dumps([verdict]))
    (path,) = responses.write(run, tmp_path, ["svg"])
    assert "noise: must worsen (pass)" in path.read_text()
