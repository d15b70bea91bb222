"""The commands a newcomer types, in the order of the README, on clips of a few seconds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

import talkbench as package
from talkbench.store.run import Run
from tests.support import ROOT, talkbench


@pytest.fixture(scope="module")
def run(two_systems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    done = talkbench("score", two_systems / "ours", two_systems / "theirs", "--suite", "short", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "Temporal-F" in done.stdout
    assert "ours" in done.stdout
    return folder


def test_score_as_json_prints_json_and_nothing_else(run: Path) -> None:
    told = json.loads(talkbench("score", run, "--json").stdout)
    assert told["rows"] == {}
    assert told["clips"] == 8


def test_status_counts_and_names_the_next_command(run: Path) -> None:
    told = json.loads(talkbench("status", run, "--json").stdout)
    assert told["systems"]["ours"]["metrics"]["flicker"] == {
        "failed": 0,
        "ok": 4,
        "unscorable": 0,
        "skipped": 0,
        "missing": 0,
    }
    assert told["next"] == f"talkbench report table1 --run {run}"
    assert "4 ok" in talkbench("status", run).stdout


def test_compare_prints_differences_with_intervals(run: Path) -> None:
    told = json.loads(talkbench("compare", run, "ours", "theirs", "--json").stdout)
    (flicker,) = [c for c in told["comparisons"] if c["output"] == "vbench.temporal_flickering"]
    assert flicker["difference"]["mean"] > 0
    assert flicker["win_rate"] == 1.0
    shown = talkbench("compare", run, "ours", "theirs").stdout
    assert "no p-value below 0.125 is possible" in shown


def test_report_writes_every_format(run: Path, tmp_path: Path) -> None:
    done = talkbench("report", "table1", "--run", run, "--format", "md,tex,csv,html", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table1.csv", "table1.html", "table1.md", "table1.tex"]
    rows = list(csv.DictReader((tmp_path / "table1.csv").open()))
    measured = {r["system"] for r in rows if r["quoted"] == "no"}
    assert measured == {"ours", "theirs"}
    assert r"\toprule" in (tmp_path / "table1.tex").read_text()


@pytest.mark.parametrize("name", ["table2", "table3", "table4"])
def test_tables_without_measured_rows_show_what_is_quoted_and_what_is_needed(run: Path, name: str) -> None:
    shown = talkbench("report", name, "--run", run).stdout
    assert "No measured rows" in shown
    assert "quoted" in shown


def test_the_module_form_of_report_works_from_a_checkout(run: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "reports", "table1", "--run", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    assert "Temporal-F" in done.stdout


def test_export_gives_one_typed_line_per_clip_and_output(run: Path, tmp_path: Path) -> None:
    assert talkbench("export", run, "--parquet", "--csv", "--out", tmp_path).returncode == 0
    frame = pd.read_parquet(tmp_path / "rows.parquet")
    assert len(frame) == len(Run(run).current_rows())
    assert frame["value"].dtype == "float64"
    assert set(frame["system"]) == {"ours", "theirs"}
    assert len(pd.read_csv(tmp_path / "rows.csv")) == len(frame)


def test_the_python_api_returns_the_same_rows(run: Path) -> None:
    frame = package.load_rows(run)
    ok = frame[(frame.output == "motion.amount") & (frame.status == "ok")]
    assert len(ok) == 8
    assert (
        ok.groupby("system", observed=True).value.mean()["theirs"]
        > ok.groupby("system", observed=True).value.mean()["ours"]
    )


def test_doctor_and_lists_work_and_have_json(run: Path) -> None:
    del run
    doctor = talkbench("doctor", "--json")
    assert doctor.returncode == 0
    assert {finding["name"] for finding in json.loads(doctor.stdout)} >= {
        "talkbench",
        "decoder",
        "disk",
        "cache",
        "GPU",
    }
    assert {suite["name"] for suite in json.loads(talkbench("manifest", "list", "--json").stdout)} == {
        "mini",
        "open",
        "short",
        "long",
    }
    systems = json.loads(talkbench("system", "list", "--json").stdout)
    assert sum(system["kind"] == "known-answer" for system in systems) == 9
    assert "soulx-livetalk-tiny" in {system["name"] for system in systems}
    assert "mini-s01" in talkbench("manifest", "show", "mini").stdout
    assert talkbench("manifest", "check", "mini").returncode == 0
    assert "would" not in talkbench("--version").stderr


def test_a_dry_run_touches_nothing(tmp_path: Path) -> None:
    told = json.loads(
        talkbench("run", "mini", "--system", "known", "--out", tmp_path / "x", "--dry-run", "--json").stdout
    )
    assert (told["clips"], told["clips_to_make"]) == (228, 228)
    assert not (tmp_path / "x").exists()


def test_real_clips_have_real_values(real_clips: Path, tmp_path: Path) -> None:
    done = talkbench("score", real_clips, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    values = {
        (r["system"], r["output"]): r["value"] for r in Run(tmp_path / "run").current_rows() if r["status"] == "ok"
    }
    assert values["10", "vbench.temporal_flickering"] == pytest.approx(0.985122, abs=1e-5)
    assert values["talk_emotion", "vbench.temporal_flickering"] == pytest.approx(0.993051, abs=1e-5)
    assert values["10", "motion.amount"] > 1
    assert "98.51" in done.stdout


def test_a_system_that_cannot_run_here_keeps_no_other_from_being_scored(tmp_path: Path) -> None:
    run, small = tmp_path / "run", ("--num-short", "1", "--num-long", "0", "--out", tmp_path / "run")
    assert talkbench("generate", "mini", "--system", "ditto", *small).returncode == 4
    refused = talkbench("score", run, "--metric", "flicker")
    assert refused.returncode == 2
    assert "holds no clip yet" in refused.stderr
    assert talkbench("generate", "mini", "--system", "static_image", *small).returncode == 0
    assert talkbench("score", run, "--metric", "flicker").returncode == 0
