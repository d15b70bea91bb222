"""Ablations: the grid, what is done again and what is not, failures that cost one row, clips beside the truth."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from model import checkpoint
from model.ablate import ablate
from model.live import Frames
from model.tiny import ablation, reader, trial
from model.tiny.ablation import Ablation, Asked
from model.tiny.cast import Cast, Scene
from model.tiny.children import Children
from model.tiny.world import Clip
from model.training.config import DistillConfig
from model.training.recipes import changed, train_recipe
from model.training.variants import TABLES, Variant, expected_passes
from talkbench import atomic
from talkbench.errors import TalkbenchError
from talkbench.manifests.load import load
from talkbench.mini.suite import is_mini
from talkbench.schema import Sidecar
from tests.support import ROOT

CAST = Cast(people=2, seconds=2, long_people=1, long_seconds=4)


class Fake:
    """Stands in for child processes: leaves what a training or a trial leaves, and remembers who was called."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.trained, self.filmed = fails, list[str](), list[str]()

    def run(self, command: Sequence[str], log: Path) -> None:
        if log.parent.name == self.fails and command[2].endswith(".train"):
            raise TalkbenchError("ended with 1: error: loss is nan")
        given = dict(zip(command[3::2], command[4::2], strict=False))
        if command[2].endswith(".train"):
            self.trained.append(log.parent.name)
            folder = Path(given["--out"])
            line = {"step": 0, "seconds": 30.0, "tokens_per_second": 2 * 9 * 16.0, "loss": 1.0}
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line | {"step": n}) + "\n" for n in range(4)))
            (folder / "export").mkdir()
            return
        self.filmed.append(log.parent.name)
        system, seed = given["--system"], int(given["--seed"])
        for scene in Cast(**json.loads(given["--cast"])).scenes(seed):
            record = {
                "system": system, "item": scene.id, "identity": scene.identity, "tier": scene.tier, "seed": seed,
                "key": "k", "values": {"mouth.correlation": 0.5, "sharpness_last": 4.0 if system == "film" else 3.0},
            }  # fmt: skip
            path = Path(given["--out"]) / "measures" / system / f"{scene.id}.json"
            atomic.write_text(path, json.dumps(record))


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    folder = checkpoint.Files.below(tmp_path / "sft" / "export").model
    folder.mkdir(parents=True)
    (folder / checkpoint.DIT_INDEX).write_text("{}")
    return tmp_path / "sft"


def prepared(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, fake: Fake, table: str = "table2", **changes: Any
) -> Ablation:
    monkeypatch.setattr(Children, "run", fake.run)
    monkeypatch.setattr(Ablation, "_score", lambda _: None)
    header = SimpleNamespace(clips="c", encoders={"vae": "v"}, chunks=5)
    monkeypatch.setattr(ablation, "Dataset", lambda _: SimpleNamespace(header=header))
    asked = Asked(tmp_path / "data", teacher, **{"seeds": 2, "steps": 4, "cast": CAST} | changes)
    return Ablation(tmp_path / "out", table, asked, jobs=1, tell=lambda _: None)


def record(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "ablation.json").read_text())
    return found


def test_every_variant_is_a_recipe_and_no_two_of_a_table_are_the_same() -> None:
    for variants in TABLES.values():
        recipes = [changed(train_recipe("distill_tiny"), variant.fields) for variant in variants]
        assert len({str(each.stage) for each in recipes}) == 4
    chunks = [changed(train_recipe("distill_tiny"), variant.fields).stage for variant in TABLES["table2"]]
    assert [each.chunks for each in chunks if isinstance(each, DistillConfig)] == [1, 3, 5, "random"]
    truth, predicted, noised, counted = (
        changed(train_recipe("distill_tiny"), variant.fields).stage for variant in TABLES["table3"]
    )
    told = [
        (each.motion_source, each.motion_noise, each.motion_loss)
        for each in (truth, predicted, noised, counted)
        if isinstance(each, DistillConfig)
    ]
    assert told == [
        ("ground truth", False, False), ("predicted", False, False), ("predicted", True, False),
        ("predicted", True, True),
    ]  # fmt: skip


def test_random_chunks_are_expected_to_cost_what_three_do() -> None:
    stage = train_recipe("distill_14b").stage
    assert isinstance(stage, DistillConfig)
    by_name = {variant.name: changed(train_recipe("distill_14b"), variant.fields).stage for variant in TABLES["table2"]}
    passes = {name: expected_passes(each, 4) for name, each in by_name.items() if isinstance(each, DistillConfig)}
    assert passes["random"] == passes["k3"]
    assert passes["k1"] < passes["k3"] < passes["k5"]
    # The report's count of 200 updates of the fake score and 40 of the generator, K = 1, a trained pass counted as 3.
    assert passes["k1"] == 32 * (200 * 5.5 + 40 * (1.5 + 4 + 3))


def test_a_grid_is_trained_filmed_and_recorded(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    assert prepared(tmp_path, teacher, monkeypatch, fake).run() == {}
    assert sorted(fake.trained) == sorted(f"{v.name}-seed{s}" for v in TABLES["table2"] for s in (0, 1))
    assert fake.filmed[:2] == ["film-seed0", "film-seed1"]
    cell = record(tmp_path)["cells"]["k3-seed1"]
    assert (cell["system"], cell["seed"], cell["failed"]) == ("k3", 1, None)
    assert cell["training"] == {"seconds": 120.0, "passes": 240, "steps": 4, "cells_at_once": 1}
    suite = load(str(tmp_path / "out" / "suite.jsonl"))
    assert is_mini(suite)
    assert [item.id for item in suite.items or ()][:3] == ["short-01-seed0", "short-02-seed0", "long-01-seed0"]
    assert len({item.identity for item in suite.items or ()}) == 6
    lines = [json.loads(line) for line in (tmp_path / "out" / "measures.jsonl").read_text().splitlines()]
    sharp = {line["system"]: line["value"] for line in lines if line["name"] == "sharpness_last"}
    assert sharp["film"] == 1
    assert sharp["k3"] == 0.75


def test_the_same_command_again_trains_nothing_and_a_second_table_only_what_is_new(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path, teacher, monkeypatch, Fake()).run()
    again = Fake()
    prepared(tmp_path, teacher, monkeypatch, again).run()
    assert again.trained == []
    other = Fake()
    prepared(tmp_path, teacher, monkeypatch, other, "table3").run()
    assert {name.rpartition("-seed")[0] for name in other.trained} == {"ground-truth", "predicted", "noise-loss"}
    assert set(record(tmp_path)["tables"]) == {"table2", "table3"}


def test_a_cell_that_fails_costs_its_own_row_and_is_tried_again(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = prepared(tmp_path, teacher, monkeypatch, Fake(fails="k5-seed0")).run()
    assert failed == {"k5-seed0": "ended with 1: error: loss is nan"}
    cells = record(tmp_path)["cells"]
    assert cells["k5-seed0"]["failed"] == "ended with 1: error: loss is nan"
    assert cells["random-seed1"]["failed"] is None
    again = Fake()
    assert prepared(tmp_path, teacher, monkeypatch, again).run() == {}
    assert again.trained == ["k5-seed0"]
    assert record(tmp_path)["cells"]["k5-seed0"]["failed"] is None


def test_other_settings_in_the_same_folder_are_refused_by_name(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path, teacher, monkeypatch, Fake()).run()
    with pytest.raises(TalkbenchError, match=r"other seeds, steps\. .*--out"):
        prepared(tmp_path, teacher, monkeypatch, Fake(), seeds=3, steps=5)


def test_a_cell_of_another_recipe_is_refused(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, teacher, monkeypatch, Fake()).run()
    other = (Variant("k1", "K = 1", {"stage.chunks": "2"}),)
    monkeypatch.setattr(ablation, "TABLES", {"table2": other})
    failed = prepared(tmp_path, teacher, monkeypatch, Fake()).run()
    assert "another recipe: stage.chunks is 1 there and 2 here" in failed["k1-seed0"]


def test_a_cell_of_another_stage_1_is_refused(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, teacher, monkeypatch, Fake()).run()
    weights = checkpoint.Files.below(teacher).model
    weights.mkdir(parents=True)
    (weights / "diffusion_pytorch_model-00001-of-00001.safetensors").write_bytes(b"trained again")
    again = Fake()
    failed = prepared(tmp_path, teacher, monkeypatch, again).run()
    assert again.trained == []
    assert "was trained with another --init, or that has changed since" in failed["k1-seed0"]


def test_without_a_teacher_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match=r"no exported generator.*model\.train --recipe sft_tiny"):
        Ablation(tmp_path, "table2", Asked(tmp_path, tmp_path / "none"), jobs=1, tell=print)


def test_two_at_work_on_one_folder_are_one_too_many(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = prepared(tmp_path, teacher, monkeypatch, Fake())
    with atomic.lock(tmp_path / "out" / ".ablation.lock", wait=True), pytest.raises(TalkbenchError, match="another"):
        mine.run()


def test_a_child_that_fails_is_told_with_its_last_words_and_its_log(tmp_path: Path) -> None:
    children = Children(lambda _: None)
    log = tmp_path / "cell" / "log.txt"
    children.run([sys.executable, "-c", "print('one')"], log)
    with pytest.raises(TalkbenchError, match=r"ended with 7: three.*log\.txt"):
        children.run([sys.executable, "-c", "print('two'); print('three'); raise SystemExit(7)"], log)
    assert log.read_text().split() == ["one", "two", "three"]
    children.stop()
    with pytest.raises(TalkbenchError, match="stopped"):
        children.run([sys.executable, "-c", "pass"], log)


def test_what_a_killed_run_left_is_waited_for_and_said(tmp_path: Path) -> None:
    told: list[str] = []
    log = tmp_path / "k1-seed0" / "log.txt"
    log.parent.mkdir()
    with log.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(file.fileno(),))
    assert left.stdin is not None
    waiting = threading.Thread(target=Children(told.append).run, args=([sys.executable, "-c", "print('mine')"], log))
    waiting.start()
    while not told:
        time.sleep(0.01)
    assert told == ["k1-seed0: waits for a process that a stopped run has left"]
    assert log.read_text() == ""
    left.communicate(b"\n")
    waiting.join()
    assert log.read_text() == "mine\n"


def test_a_child_ends_with_the_process_that_started_it() -> None:
    nap = "import time; time.sleep(60)"
    child = f"from model.tiny.children import leave_with_parent as leave; leave(0.01); print(flush=True); {nap}"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); {nap}"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    process.kill()
    assert process.stdout.read() == b""  # the pipe closes when the child is gone too
    process.wait()


def test_a_clip_is_made_and_measured_once_and_again_for_other_weights(tmp_path: Path) -> None:
    scene = Scene("short-01-seed0", "short", 40_000_000, 0, 2.0)
    played: list[int] = []

    def play(clip: Clip, seed: int) -> Frames:
        played.append(seed)
        return clip.frames_THWC

    def stage(system: str, key: str) -> trial.Stage:
        return trial.Stage(tmp_path, system, key, play, reader.MouthReader().eval())

    assert stage("k1", "weights").perform(scene)
    assert not stage("k1", "weights").perform(scene)
    assert stage("k1", "others").perform(scene)
    assert played == [0, 0]
    values = json.loads((tmp_path / "measures" / "k1" / "short-01-seed0.json").read_text())["values"]
    assert values["film.distance"] < values["sharpness_first"]
    assert not list(tmp_path.glob("clips/k1/*.json"))
    stage("film", "weights").perform(scene)
    told = Sidecar.model_validate_json((tmp_path / "clips" / "film" / "short-01-seed0.clip.json").read_text())
    assert told.truth is not None
    assert len(told.truth.mouth_opening) == 50


def test_sharpness_and_distance_tell_where_in_a_clip_it_goes_wrong(tmp_path: Path) -> None:
    clip = Scene("short-01-seed0", "short", 40_000_000, 0, 5.0).clip(tmp_path)
    made_THWC = clip.frames_THWC.copy()
    made_THWC[-50:] = 128
    values = trial.measured(made_THWC, clip, reader.MouthReader().eval())
    assert values["film.distance_last"] > 10 > values["film.distance_first"]
    assert values["sharpness_last"] == 0 < values["sharpness_first"]
    assert np.isfinite(list(values.values())).all()


def test_the_commands_of_the_reports_size_are_printed_not_run(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(ablate)
    out = tmp_path / "runs"
    done = CliRunner().invoke(app, ["table2", "--scale", "14b", "--seeds", "2", "--out", str(out)])
    assert done.exit_code == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("torchrun")]
    assert len(lines) == 8
    assert "--recipe distill_14b" in lines[1]
    assert "stage.chunks=3" in lines[1]
    score, report = done.stdout.splitlines()[-2:]
    assert score.startswith(f"talkbench score k1-seed0={out}/cells/k1-seed0/film/clips/soulx-livetalk k3-seed0=")
    assert report == f"talkbench report table1 --run {out}/scored"
    assert not out.exists()
