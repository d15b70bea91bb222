"""`torchrun ... -m model.train` as a user runs it: two processes learn what one learns, and one goes on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model import train as program
from model.training.starting import Job
from tests.support import ROOT
from tests.unit.model import mini_train as mini

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_of_torchrun_learn_what_one_learns_and_one_goes_on(tmp_path: Path) -> None:
    clips = mini.write_clips(tmp_path / "clips")
    command = [sys.executable, *TORCHRUN, "-m", "tests.unit.model.mini_train"]
    command += ["--recipe", "sft_mini", "--data", str(clips), "--out", str(tmp_path / "two")]
    done = subprocess.run(
        [*command, "--steps", "2"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("next: python -m model.infer") == 1, "one process speaks"
    assert len(mini.bytes_of(tmp_path / "two", step=2)) == 2
    for out in ("two", "one"):
        program.train(Job(mini.sft_mini(), clips, tmp_path / out))
    ours, theirs = (mini.told(tmp_path / out) for out in ("two", "one"))
    assert len(ours) == mini.STEPS
    for line, expected in zip(ours, theirs, strict=True):
        assert line == pytest.approx(expected, rel=1e-9)


def test_a_changed_recipe_goes_on_only_where_that_changes_nothing(tmp_path: Path) -> None:
    clips = mini.write_clips(tmp_path / "clips")
    job = Job(replace(mini.sft_mini(), keep_last=1), clips, tmp_path / "run")
    program.train(job)
    longer = replace(job.recipe, keep_last=3, stage=replace(job.recipe.stage, steps=mini.STEPS + 1))
    program.train(replace(job, recipe=longer))
    assert [line["step"] for line in mini.told(job.out)] == [0, 1, 2, 3, 4]
