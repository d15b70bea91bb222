"""A package outside talkbench adds metrics and commands; a broken one costs only itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from talkbench.media.encode import write_clip
from talkbench.store.run import Run
from tests.support import ROOT, make_clip

NO_RAY = find_spec("ray") is None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy package, installed for real into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for file in (ROOT / "tests" / "data" / "plugin_package").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(target), str(source)], check=True, timeout=120
    )
    return target


def talkbench(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    command = [sys.executable, "-m", "talkbench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def rows(run: Path) -> dict[tuple[str, str], dict]:
    return {(r["item"], r["output"]): r for r in Run(run).current_rows()}


def test_a_plugin_metric_is_scored_like_any_other(site: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "ours" / "a.mp4")
    done = talkbench(site, "score", tmp_path / "ours", "--out", tmp_path / "run", "-m", "toy/brightness,flicker")
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "run")
    assert 50 < found["a", "toy.brightness"]["value"] < 200
    assert found["a", "vbench.temporal_flickering"]["status"] == "ok"


def test_its_parameters_come_from_the_configuration_and_enter_the_key(site: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "ours" / "a.mp4")
    config = tmp_path / "run.yaml"
    config.write_text("metrics: [toy/brightness]\nparams: {toy/brightness: {scale: 2.0}}\n")
    talkbench(site, "score", tmp_path / "ours", "--out", tmp_path / "run", "-m", "toy/brightness")
    once = rows(tmp_path / "run")["a", "toy.brightness"]
    talkbench(site, "score", tmp_path / "ours", "--out", tmp_path / "run", "--config", config)
    twice = rows(tmp_path / "run")["a", "toy.brightness"]
    assert twice["value"] == pytest.approx(2 * once["value"])
    assert twice["score_key"] != once["score_key"]


def test_an_exception_or_nan_costs_that_metric_on_that_clip_only(site: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "ours" / "a.mp4")
    done = talkbench(site, "score", tmp_path / "ours", "--out", tmp_path / "run", "-m", "toy/raises,toy/nan,flicker")
    assert done.returncode == 3
    found = rows(tmp_path / "run")
    assert found["a", "toy.raises"]["reason"] == "exception"
    assert "a bug of the plug-in" in found["a", "toy.raises"]["message"]
    assert found["a", "toy.nan"]["reason"] == "not-finite"
    assert found["a", "vbench.temporal_flickering"]["status"] == "ok"


@pytest.mark.parametrize(
    ("options", "how"),
    [
        (("-j", "2"), "exit code 9"),
        pytest.param(("--ray", "local"), "the Ray actor died", marks=pytest.mark.skipif(NO_RAY, reason="no ray here")),
    ],
)
def test_a_worker_that_dies_becomes_a_row_and_the_others_go_on(
    site: Path, tmp_path: Path, options: tuple[str, str], how: str
) -> None:
    for number in range(5):
        make_clip(tmp_path / "ours" / f"{number}.mp4", seed=number)
    write_clip(tmp_path / "ours" / "dark.mp4", [np.zeros((64, 64, 3), np.uint8)] * 5)
    done = talkbench(site, "score", tmp_path / "ours", "--out", tmp_path / "run", "-m", "toy/dies", *options)
    assert done.returncode == 3, done.stderr
    found = rows(tmp_path / "run")
    assert found["dark", "toy.dies"]["reason"] == "worker-died"
    assert how in found["dark", "toy.dies"]["message"]
    assert [found[str(i), "toy.dies"]["value"] for i in range(5)] == [30.0] * 5


def test_frames_and_sound_are_converted_to_the_rates_a_metric_asks_for(site: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "ours" / "a.mp4", seconds=2.0)
    talkbench(site, "score", tmp_path / "ours", "--out", tmp_path / "run", "-m", "toy/tenth")
    found = rows(tmp_path / "run")
    assert found["a", "toy.frames"]["value"] == 20
    assert found["a", "toy.samples"]["value"] == pytest.approx(16_000, rel=0.05)


def test_a_plugin_cannot_replace_a_built_in_metric_and_a_broken_command_is_a_warning(site: Path) -> None:
    done = talkbench(site, "--help")
    assert done.returncode == 0
    assert "toy-hello" in done.stdout
    assert "toy-broken" in done.stderr
    assert talkbench(site, "toy-hello").stdout == "hello from a plug-in\n"
    code = "from talkbench.metrics.base import RUNNERS; print(RUNNERS.get('flicker').__module__)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert told.stdout.strip() == "talkbench.metrics.flicker"
    assert "tried to replace the built-in metric 'flicker'" in told.stderr


def test_status_as_json_names_plugin_metrics(site: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "ours" / "a.mp4")
    talkbench(site, "score", tmp_path / "ours", "--out", tmp_path / "run", "-m", "toy/brightness")
    told = json.loads(talkbench(site, "status", tmp_path / "run", "--json").stdout)
    assert told["systems"]["ours"]["metrics"]["toy/brightness"]["ok"] == 1
