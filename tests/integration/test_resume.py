"""Being stopped: by kill -9, by a second process, half way; and not doing twice what is done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from talkbench import api
from talkbench.store.run import Run
from tests.killing import METRICS, name, whole_rows
from tests.support import ROOT, make_clip


@pytest.mark.slow
def test_two_hundred_random_kills_lose_and_double_nothing(two_systems: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.killing", str(two_systems), str(tmp_path), "200"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=550, check=True)
    tally = json.loads(done.stdout.splitlines()[-1])
    assert tally["kills"] == 200
    assert (tally["lost"], tally["doubled"], tally["different"]) == (0, 0, 0)
    assert tally["complete_runs"] >= 10


def start(clips: Path, run: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "talkbench",
        "score",
        str(clips / "ours"),
        str(clips / "theirs"),
        "--out",
        str(run),
    ]
    return subprocess.Popen(
        [*command, "-m", ",".join(METRICS), *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two systems with enough work for two processes."""
    folder = tmp_path_factory.mktemp("many")
    for system in ("ours", "theirs"):
        for number in range(10):
            make_clip(
                folder / system / f"{number}.mp4",
                seconds=3,
                height=240,
                width=320,
                seed=number + (system == "ours") * 50,
            )
    return folder


def test_killing_all_worker_processes_at_once_loses_at_most_the_clips_in_flight(many: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for wait in (1.0, 1.6, 2.2):
        process = start(many, run, "-j", "2")
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(many, run, "-j", "2")
    process.communicate(timeout=120)
    rows = whole_rows(run)
    assert len({name(r) for r in rows}) == len(rows) == 40
    assert all(r["status"] == "ok" for r in rows)


def test_two_processes_may_score_one_run_at_once(many: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = [start(many, run, "-j", "1"), start(many, run, "-j", "2")]
    for process in both:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
    rows = whole_rows(run)
    assert len({name(r) for r in rows}) == len(rows) == 40
    assert len(list((run / "rows").glob("part-*.jsonl"))) >= 2


def test_a_second_invocation_computes_nothing_and_a_new_metric_only_itself(two_systems: Path, tmp_path: Path) -> None:
    clips = [two_systems / "ours"]
    first = api.score(clips, tmp_path / "run", metrics=["flicker"], jobs=1)
    again = api.score(clips, tmp_path / "run", metrics=["flicker"], jobs=1)
    more = api.score(tmp_path / "run", metrics=["flicker", "motion"], jobs=1)
    assert (first.written, again.written, more.written) == ({"ok": 4}, {}, {"ok": 4})


def test_a_torn_last_line_is_repaired_and_its_clip_scored_again(two_systems: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    api.score([two_systems / "ours"], run, metrics=["flicker"], jobs=1)
    (part,) = (run / "rows").glob("part-*.jsonl")
    part.write_bytes(part.read_bytes()[:-40])
    assert len(Run(run).current_rows()) == 3
    again = api.score([two_systems / "ours"], run, metrics=["flicker"], jobs=1)
    assert again.written == {"ok": 1}
    assert len(whole_rows(run)) == 4


@pytest.mark.parametrize(("policy", "written"), [("missing", 0), ("none", 0), ("failed", 1), ("all", 2)])
def test_rerun_policies(tmp_path: Path, policy: str, written: int) -> None:
    make_clip(tmp_path / "ours" / "good.mp4")
    (tmp_path / "ours" / "bad.mp4").write_text("no video")
    api.score([tmp_path / "ours"], tmp_path / "run", metrics=["flicker"], jobs=1)
    again = api.score([tmp_path / "ours"], tmp_path / "run", metrics=["flicker"], jobs=1, rerun=policy)  # type: ignore[arg-type]
    assert sum(again.written.values()) == written


def test_a_replaced_clip_is_scored_again_and_the_old_rows_are_no_longer_current(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "ours" / "a.mp4", seed=1)
    api.score([tmp_path / "ours"], tmp_path / "run", metrics=["flicker"], jobs=1)
    before = Run(tmp_path / "run").current_rows()
    make_clip(path, seed=2, speed=5)
    api.score([tmp_path / "ours"], tmp_path / "run", metrics=["flicker"], jobs=1)
    after = Run(tmp_path / "run").current_rows()
    assert len(before) == len(after) == 1
    assert before[0]["value"] != after[0]["value"]
    assert len(whole_rows(tmp_path / "run")) == 2


def test_equal_clips_are_scored_once_within_a_run_and_across_runs(tmp_path: Path) -> None:
    make_clip(tmp_path / "ours" / "a.mp4")
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "ours" / "a.mp4", tmp_path / "copy" / "a.mp4")
    both = api.score([tmp_path / "ours", tmp_path / "copy"], tmp_path / "runs" / "a", metrics=["flicker"], jobs=1)
    other = api.score([tmp_path / "copy"], tmp_path / "runs" / "b", metrics=["flicker"], jobs=1)
    assert both.written == {"ok": 2}
    assert (other.written, other.reused) == ({}, 1)
    a, b = Run(tmp_path / "runs" / "a").current_rows(), Run(tmp_path / "runs" / "b").current_rows()
    assert {r["value"] for r in a} == {r["value"] for r in b}
    assert {r["system"] for r in a} == {"ours", "copy"}
    assert b[0]["reused_from"] == str((tmp_path / "runs" / "a").resolve())
    assert Run(tmp_path / "runs" / "b").clips()[0].decoded is not None


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_number_of_processes_and_the_order_of_folders_never_matter(
    two_systems: Path, tmp_path: Path, jobs: int
) -> None:
    one = api.score([two_systems / "ours", two_systems / "theirs"], tmp_path / "a" / "run", metrics=METRICS, jobs=1)
    other = api.score(
        [two_systems / "theirs", two_systems / "ours"], tmp_path / "b" / "run", metrics=METRICS, jobs=jobs
    )
    values = [{name(r): r["value"] for r in Run(s.run).current_rows()} for s in (one, other)]
    assert values[0] == values[1]
    assert len(values[0]) == 16


@pytest.mark.skipif(find_spec("ray") is None, reason="no ray here: pip install 'talkbench[cluster]'")
def test_a_ray_cluster_writes_the_rows_that_this_machine_writes(two_systems: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for run, options in zip(runs, [("-j", "2"), ("--ray", "local")], strict=True):
        _, told = (process := start(two_systems, run, *options)).communicate(timeout=120)
        assert process.returncode == 0, told
    here, there = (
        {name(r): {k: v for k, v in r.items() if k not in {"seconds", "written_at"}} for r in whole_rows(run)}
        for run in runs
    )
    assert here == there
    assert len(here) == 16


def test_every_invocation_is_recorded_with_its_end(two_systems: Path, tmp_path: Path) -> None:
    api.score([two_systems / "ours"], tmp_path / "run", metrics=["flicker"], jobs=1)
    (session,) = Run(tmp_path / "run").sessions()
    assert session.outcome == "finished"
    assert session.config["metrics"] == ["flicker"]
    assert session.provenance["packages"]["av"]
    assert session.ended_at
