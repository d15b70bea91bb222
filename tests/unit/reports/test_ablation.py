"""Tables 2 and 3 from an ablation: intervals over people and seeds, reasons in empty rows, quoted values apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reports import ablation, make, render, spec
from reports.ablation import Value, widest
from reports.table import Row, Table
from talkbench import atomic
from talkbench.errors import TalkbenchError
from talkbench.manifests.load import read_items
from talkbench.schema import ClipRecord, ScoreRow, Suite, SystemRecord, TierRule
from talkbench.store.rows import RowWriter
from talkbench.store.run import Run
from tests.support import row, talkbench

LABELS = {"k1": "K = 1", "k3": "K = 3", "k5": "K = 5", "random": "random"}
SYNC = "sync.frame.confidence"


def cell(system: str, seed: int, failed: str | None = None, minutes: float | None = 3.0) -> dict[str, Any]:
    training = {"seconds": 60 * minutes, "passes": 10, "steps": 4, "cells_at_once": 2} if minutes else None
    return {"system": system, "seed": seed, "failed": failed, "training": training}


def items(seeds: int = 2) -> list[dict[str, Any]]:
    return [
        {"id": f"{tier}-{n}-seed{seed}", "tier": tier, "identity": f"p{seed}{n}", "duration_seconds": 4.0}
        for seed in range(seeds) for tier in ("short", "long") for n in range(2)
    ]  # fmt: skip


def ablated(folder: Path, **changes: Any) -> Run:
    """Write what `talkbench ablate table2` leaves: K = 5 failed at both seeds, K = 3 at one of them."""
    text = "".join(f"{json.dumps(item)}\n" for item in items())
    suite = Suite(
        name="suite", version=1, title="suite", description="d", licence="l", items=read_items(text, "suite"),
        tiers=(TierRule(name="short", title="Short"), TierRule(name="long", title="Long")),
    )  # fmt: skip
    run = Run.open_or_create(folder, suite)
    cells = {
        f"{c['system']}-seed{c['seed']}": c
        for c in (
            cell("k1", 0), cell("k1", 1, minutes=5), cell("k3", 0), cell("k3", 1, "ended with 1: killed", None),
            cell("k5", 0, "ended with 1: nan", None), cell("k5", 1, "ended with 1: nan", None),
            cell("film", 0, minutes=None),
        )
    }  # fmt: skip
    cast = {"people": 2, "seconds": 4.0, "long_people": 2, "long_seconds": 60.0}
    record = {
        "scale": "tiny", "asked": {"seeds": 2, "cast": cast}, "cells": cells, "reader": {"held_out_r2": 0.91},
        "tables": {"table2": [{"system": name, "label": label} for name, label in LABELS.items()]},
        "references": [{"system": "film", "label": "true film"}],
    }  # fmt: skip
    atomic.write_text(folder / "ablation.json", json.dumps(record | changes))
    levels = {"k1": 0.4, "k3": 0.6, "film": 0.9}
    made = [(s, item) for s in levels for item in items() if s != "k3" or item["id"].endswith("seed0")]
    lines = [
        {"system": s, "item": i["id"], "identity": i["identity"], "tier": i["tier"], "seed": int(i["id"][-1]),
         "name": "mouth.correlation", "value": levels[s] + 0.01 * n}
        for n, (s, i) in enumerate(made)
    ]  # fmt: skip
    atomic.write_text(folder / "measures.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    rows = [
        ScoreRow.model_validate(
            row(s, i["id"], 2.0, tier=i["tier"], identity=i["identity"], metric="sync_frame",
                output=f"{SYNC}@mini-domain", weights_kind="mini-domain")
        )
        for s, i in made
    ]  # fmt: skip
    for name in levels:
        run.add_system(SystemRecord(name=name, kind="folder", path="x"))
    for each in rows:
        run.put_clip(
            ClipRecord(clip_key=each.clip_key, system=each.system, item=each.item, tier=each.tier,
                       identity=each.identity, path="x.mp4", size_bytes=1, modified_ns=1, sha256="0" * 64)
        )  # fmt: skip
    writer = RowWriter(folder / "rows")
    writer.write(rows)
    writer.close()
    return run


def rows_of(table: Table) -> dict[str, Row]:
    return {each.label: each for block in table.blocks for each in block.rows}


def built(run: Run) -> Table:
    (table,) = make.tables(run, "table2")
    return table


def test_means_come_with_intervals_and_the_published_cost_stands_in_its_own_column(tmp_path: Path) -> None:
    table = built(ablated(tmp_path / "run"))
    rows = rows_of(table)
    assert list(rows) == [*LABELS.values(), "true film"]
    cost = rows["K = 1"].cells["train.minutes"]
    assert cost.value == 240
    assert cost.text.startswith("4.0 ± ")
    assert rows["K = 1"].cells["hours#quoted"].text == "2.33"
    assert rows["K = 1"].cells["hours#quoted"].quoted
    assert "hours#quoted" not in rows["true film"].cells
    heads = [column.id for column in table.columns]
    assert heads[:2] == ["train.minutes", "hours#quoted"]
    assert "long.film.distance_last" not in heads  # nothing measured it here
    ours = rows["K = 1"].cells["short.mouth.correlation"]
    assert ours.low is not None
    assert ours.low < 0.4 < ours.value < ours.high  # type: ignore[operator]


def test_nothing_is_ranked_and_tiny_scale_is_said(tmp_path: Path) -> None:
    table = built(ablated(tmp_path / "run"))
    assert all(each.rank is None for found in rows_of(table).values() for each in found.cells.values())
    assert "64x64 drawn people, 2 trainings of each variant" in table.caption
    assert "91%" in table.caption
    text = render.markdown(table)
    assert "Scored with mini-domain weights" in text
    assert "Quoted, not measured" in text


def test_a_failed_variant_is_an_empty_row_with_its_reason(tmp_path: Path) -> None:
    rows = rows_of(built(ablated(tmp_path / "run")))
    assert rows["K = 5"].coverage == "seed 0: ended with 1: nan; seed 1: ended with 1: nan"
    assert rows["K = 5"].cells["short.mouth.correlation"].value is None
    assert rows["K = 5"].cells["hours#quoted"].text == "6.40"
    assert rows["random"].coverage == "not tried"
    table = built(Run(tmp_path / "run"))
    (mark,) = rows_of(table)["K = 3"].marks
    assert "seed 1: ended with 1: killed" in table.footnotes[mark]


def test_an_interval_is_as_wide_as_people_or_seeds_make_it() -> None:
    people = [Value(0.1 * person, f"p{person}", seed) for seed in (0, 1, 2) for person in range(4)]
    seeds = [Value(0.1 * seed, f"p{person}", seed) for seed in (0, 1, 2) for person in range(4)]
    for values, of in ((people, "person"), (seeds, "seed")):
        found = widest(values)
        assert found.low is not None
        assert found.high is not None
        assert found.high - found.low > 0.1, f"the spread over each {of} is lost"
        assert found.num_clusters == (4 if of == "person" else 3)
    assert widest([Value(1.0, "p", 0)]).low is None


def test_a_run_without_the_table_names_the_command(tmp_path: Path) -> None:
    run = ablated(tmp_path / "run")
    with pytest.raises(TalkbenchError, match=r"has no table3, only table2\. Add it: `talkbench ablate table3 --out"):
        ablation.table(run, spec.load("table3"), "table3")
    (run.path / "ablation.json").unlink()
    with pytest.raises(TalkbenchError, match=r"is no ablation.*talkbench ablate table2"):
        ablation.table(run, spec.load("table2"), "table2")
    measured, published = make.tables(run, "table2")
    assert "No measured rows" in measured.caption
    assert "quoted" in published.title


def test_one_command_prints_several_tables(tmp_path: Path) -> None:
    ablated(tmp_path / "run")
    done = talkbench("report", "table2", "table3", "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "Table 2: number of self-correction chunks" in done.stdout
    assert "Table 3 of the report (quoted)" in done.stdout
