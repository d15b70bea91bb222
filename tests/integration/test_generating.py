"""Generating as a user does it: several systems at once, retries, reruns, plans, Slurm jobs, and being killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from talkbench import api
from talkbench.cli.app import app
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.mini.suite import mini_suite
from talkbench.store.attempts import read
from talkbench.store.run import Run
from talkbench.systems.machine import Machine
from talkbench.systems.scan import read_sidecar
from tests import instant
from tests.data.baselines.support import SPECS, install
from tests.integration.test_workers import adapter as fake_adapter
from tests.support import ROOT, make_clip, talkbench


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=1.0)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instant.suite(tmp_path_factory.mktemp("suite"), 6)


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with eight GPUs and enough memory, as far as anybody looks."""
    machine = Machine(tmp_path / "weights", tuple("01234567"), 2000.0)
    monkeypatch.setattr(Machine, "this", classmethod(lambda _, **__: machine))


def settings(run: Path, system: str) -> list[dict]:
    return [read_sidecar(path).settings["clip"] for path in sorted((run / "clips" / system).glob("*.mp4"))]


def test_a_system_of_five_gpus_and_one_of_one_share_eight_with_one_model_per_place(
    suite: Path, clip: Path, tmp_path: Path, eight_gpus: None
) -> None:
    path = instant.adapter(tmp_path, clip, {"small": {"needs": {"gpus": 1}}, "large": {"needs": {"gpus": 5}}})
    summary = api.generate(str(suite), [str(path)], tmp_path / "run")
    assert (summary.made, summary.failures) == (12, ())
    large, small = settings(tmp_path / "run", "large"), settings(tmp_path / "run", "small")
    assert {each["gpus"] for each in large} == {"0,1,2,3,4"}
    assert len({each["pid"] for each in large}) == 1
    assert {each["gpus"] for each in small} <= set("01234567")
    assert len({each["pid"] for each in small}) >= 3


def test_a_crash_is_tried_again_and_every_attempt_is_on_record(suite: Path, clip: Path, tmp_path: Path) -> None:
    path = instant.adapter(tmp_path, clip, {"shaky": {}}, "crash")
    summary = api.generate(str(suite), [str(path)], tmp_path / "run", retries=2)
    assert (summary.made, summary.failures) == (6, ())
    attempts = [record for n in range(6) for record in read(tmp_path / "run", "shaky", f"item-{n:03d}")]
    assert sorted(record.outcome for record in attempts) == ["failed"] * (len(attempts) - 6) + ["made"] * 6
    crashed = [record for record in attempts if record.outcome == "failed"]
    assert crashed
    assert {(record.reason, record.device) for record in crashed} == {("crashed", "nothing")}


def test_a_failure_is_not_tried_again_unless_asked_for(suite: Path, clip: Path, tmp_path: Path) -> None:
    path, run = instant.adapter(tmp_path, clip, {"shaky": {}}, "crash"), tmp_path / "run"
    first = api.generate(str(suite), [str(path)], run, retries=0)
    assert (first.made, len(first.failures)) == (4, 2)
    counts = api.status(run)["systems"]["shaky"]["generation"]
    assert counts == {"made": 4, "failed": {"crashed": 2}, "not_tried": 0}
    second = api.generate(str(suite), [str(path)], run)
    assert (second.made, second.failures, second.failed_before) == (4, (), 2)
    assert api.generate(str(suite), [str(path)], run, rerun="none").made == 4
    third = api.generate(str(suite), [str(path)], run, rerun="failed")
    assert (third.made, third.failures, third.failed_before) == (6, (), 0)
    before = {path: path.stat().st_mtime_ns for path in run.glob("clips/*/*.mp4")}
    api.generate(str(suite), [str(path)], run, rerun="all", retries=2)
    assert all(path.stat().st_mtime_ns > stamp for path, stamp in before.items())


def test_what_the_system_itself_refuses_is_recorded_once_with_its_reason_and_never_retried(
    suite: Path, clip: Path, tmp_path: Path
) -> None:
    path, run = fake_adapter(tmp_path, "error", clip), tmp_path / "run"
    for _ in range(2):
        limited = fake_adapter(tmp_path / "limited", "good", clip, name="short", limits={"max_seconds": 0.5})
        summary = api.generate(str(suite), [str(path), str(limited)], run, items=["item-000"])
        assert len(summary.failures) == 1
    (record,) = read(run, "short", "item-000")
    assert (record.reason, record.message) == (
        "unsupported", "unsupported: lasts 1 s, short makes clips of up to 0.5 s",
    )  # fmt: skip
    done = talkbench("status", run)
    assert "1 unsupported" in " ".join(done.stdout.split())


def test_a_clip_that_needs_more_memory_than_there_is_is_refused_in_words(
    suite: Path, clip: Path, tmp_path: Path
) -> None:
    path = instant.adapter(tmp_path, clip, {"hungry": {"needs": {"ram_gigabytes_per_second": 1e6}}})
    summary = api.generate(str(suite), [str(path)], tmp_path / "run", items=["item-000"])
    assert "needs-memory: hungry needs about 1000000 GB of host memory for 1 s" in summary.failures[0]
    base = instant.adapter(tmp_path, clip, {"hungry": {"needs": {"ram_gigabytes": 1e6}}})
    with pytest.raises(PrerequisiteError, match="1e\\+06 GB of host memory, this machine has"):
        api.generate(str(suite), [str(base)], tmp_path / "run2")


def test_a_plan_needs_nothing_installed_and_takes_gpus_for_given(tmp_path: Path) -> None:
    options = ["--system", "ditto,liveavatar-5gpu", "--gpus", "8", "--dry-run", "--weights-dir", tmp_path / "none"]
    told = json.loads(talkbench("run", "short", *options, "--json", "--out", tmp_path / "x").stdout)
    assert told["assumption"] == "the list of short.v1 is not frozen: assuming 100 clips of 10 s (short)"
    ditto, live = told["systems"]["ditto"], told["systems"]["liveavatar-5gpu"]
    assert (ditto["clips"], ditto["seconds"], ditto["side_by_side"], ditto["non_commercial"]) == (100, 1000, 8, True)
    assert (live["gpus_per_job"], live["side_by_side"], live["non_commercial"]) == (5, 1, False)
    assert live["ram_gigabytes"] == 128 + 0.25 * 10
    assert any("it needs 5 GPU(s)" in sentence for sentence in live["lacks"])
    assert live["weights_gigabytes"] > 40
    shown = talkbench("run", "short", *options)
    assert shown.returncode == 0, shown.stderr
    assert "assuming 100 clips" in shown.stdout
    assert "NON-COMMERCIAL" in shown.stdout
    assert not (tmp_path / "x").exists()


def test_a_plan_goes_by_the_clips_that_the_run_has(suite: Path, clip: Path, tmp_path: Path, eight_gpus: None) -> None:
    needs = {"gpus": 2, "gpu_seconds_per_second": 7200.0}
    path = instant.adapter(tmp_path, clip, {"measured": {"needs": needs}})
    quoted = api.plan(str(suite), [str(path)], tmp_path / "run")["systems"]["measured"]
    assert (quoted["gpu_hours"], quoted["gpu_hours_from"], quoted["clips_from"]) == (
        12.0,
        "quoted",
        "1.5 Mbit/s, assumed",
    )
    api.generate(str(suite), [str(path)], tmp_path / "run", items=["item-000"])
    measured = api.plan(str(suite), [str(path)], tmp_path / "run")["systems"]["measured"]
    assert (measured["clips"], measured["clips_there"], measured["gpu_hours_from"]) == (5, 1, "measured")
    assert measured["gpu_hours"] < 1
    assert measured["clips_gigabytes"] == pytest.approx(5 * clip.stat().st_size / 1e9, abs=0.001)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="simulated systems write clips with ffmpeg")
def test_all_simulated_systems_are_planned_and_run_side_by_side(tmp_path: Path, eight_gpus: None) -> None:
    names = ["ditto", "echomimic_v3", "liveavatar", "omniavatar", "stableavatar", "infinitetalk"]
    for name in names:
        install(SPECS[name], tmp_path / "weights")
    drawn = mini_suite(num_short=1, num_long=0, height=256, width=256)
    items = tuple(item.model_copy(update={"duration_seconds": 1.2}) for item in drawn.items or ())
    suite = drawn.model_copy(update={"items": items, "name": "one"})
    planned = api.plan(suite, names, tmp_path / "run")["systems"]
    assert [(planned[name]["clips"], planned[name]["lacks"]) for name in names] == [(1, ())] * 6
    summary = api.generate(suite, names, tmp_path / "run")
    assert (summary.made, summary.failures) == (6, ())
    found = api.status(tmp_path / "run")["systems"]
    assert [found[name]["generation"]["made"] for name in names] == [1] * 6


@pytest.mark.skipif(find_spec("submitit") is None, reason="no submitit here: pip install 'talkbench[cluster]'")
def test_jobs_of_a_cluster_make_the_clips_that_this_machine_makes(
    suite: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("talkbench.systems.slurm.POLL_SECONDS", 0.2)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = instant.adapter(tmp_path, clip, {"one": {}}, "crash")
    options = "cluster=local,shares=2,timeout_min=2"
    summary = api.generate(str(suite), [str(path)], tmp_path / "run", slurm=options, retries=0, items=["item-00[0-4]"])
    assert (summary.made, len(summary.failures)) == (4, 1)
    assert "crashed: " in summary.failures[0]
    assert all(found.read_bytes() == clip.read_bytes() for found in (tmp_path / "run").glob("clips/one/*.mp4"))
    again = api.generate(str(suite), [str(path)], tmp_path / "run", slurm=options, rerun="failed")
    assert (again.made, again.failures) == (6, ())


@pytest.mark.skipif(find_spec("ray") is None, reason="no ray here: pip install 'talkbench[cluster]'")
def test_a_ray_cluster_makes_the_clips_that_this_machine_makes(
    suite: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = instant.adapter(tmp_path, clip, {"one": {}, "two": {}})
    summary = api.generate(str(suite), [str(path)], tmp_path / "run", ray="local")
    assert (summary.made, summary.failures) == (12, ())
    assert all(found.read_bytes() == clip.read_bytes() for found in (tmp_path / "run").glob("clips/*/*.mp4"))
    assert {read(tmp_path / "run", name, "item-000")[-1].device for name in ("one", "two")} == {"nothing"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 9, "slurm": "shares=1"}, "--gpus is about this machine; with --slurm, give gpus_per_node=N"),
        ({"jobs": 2, "slurm": "shares=1"}, "--jobs is about this machine; with --slurm, give shares=N"),
        ({"gpus": 9, "ray": "auto"}, "--gpus is about this machine; with --ray"),
    ],
)
def test_what_is_about_this_machine_is_refused_for_others_by_name(
    suite: Path, clip: Path, tmp_path: Path, options: dict, message: str
) -> None:
    path = str(instant.adapter(tmp_path, clip, {"one": {}}))
    with pytest.raises(TalkbenchError, match=message):
        api.generate(str(suite), [path], tmp_path / "run", **options)


def test_a_plan_is_not_made_for_a_cluster() -> None:
    told = CliRunner().invoke(app, ["run", "mini", "-s", "known", "--dry-run", "--slurm", "shares=1"])
    assert isinstance(told.exception, TalkbenchError)
    assert "leave out --slurm, and give --gpus N" in str(told.exception)


def test_items_of_a_configuration_are_those_that_run_plans_makes_and_scores(
    suite: Path, clip: Path, tmp_path: Path
) -> None:
    path, config = instant.adapter(tmp_path, clip, {"one": {}}), tmp_path / "run.yaml"
    config.write_text(f"suite: {suite}\nsystems: [{path}]\nitems: ['item-00[01]']\nmetrics: [speed]\njobs: 1\n")
    options = ["run", "--config", str(config), "--out", str(tmp_path / "run"), "--json"]
    planned = CliRunner().invoke(app, [*options, "--dry-run"])
    assert json.loads(planned.stdout)["clips_to_make"] == 2
    api.generate(str(suite), [str(path)], tmp_path / "run", items=["item-00[12]"])
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "run" / "clips" / "one").glob("*.mp4"))) == 3
    assert {row["item"] for row in Run(tmp_path / "run").current_rows()} == {"item-000", "item-001"}
    with pytest.raises(TalkbenchError, match="the list of short.v1 is not frozen"):
        api.plan("short", ["ditto"], tmp_path / "run", items=["x*"])


def test_wrong_options_of_slurm_and_of_both_clusters_are_refused(
    suite: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(instant.adapter(tmp_path, clip, {"one": {}}))
    with pytest.raises(TalkbenchError, match="one or the other"):
        api.generate(str(suite), [path], tmp_path / "run", ray="auto", slurm="shares=1")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'talkbench\[cluster\]'"):
        api.generate(str(suite), [path], tmp_path / "run", slurm="shares=1")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("submitit") is None, reason="no submitit here: pip install 'talkbench[cluster]'")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("partition", "'partition': expected KEY=VALUE"),
        ("shares=none", "shares=none: expected a number"),
        ("cluster=local,colour=blue", "colour"),
        ("cluster=moon", "moon"),
    ],
)
def test_options_that_nobody_knows_are_named(
    suite: Path, clip: Path, tmp_path: Path, options: str, message: str
) -> None:
    path = str(instant.adapter(tmp_path, clip, {"one": {}}))
    with pytest.raises(TalkbenchError, match=message):
        api.generate(str(suite), [path], tmp_path / "run", slurm=options)


def kill(folder: Path, times: int) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.killing_generation", str(folder), str(times)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=550, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


NOTHING = {"lost": 0, "torn": 0, "left_by_a_killed_host": 0, "left_in_the_end": 0}


@pytest.mark.slow
def test_random_kills_of_the_scheduler_and_its_children_lose_nothing_and_leave_no_process(tmp_path: Path) -> None:
    tally = kill(tmp_path, 25)
    assert NOTHING.items() <= tally.items(), tally
    assert tally["kills"] >= 25
    assert tally["complete_runs"] >= 1
