"""Ours beside official: what counts as agreement, and how the official side is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from talkbench import checks
from talkbench.calibrate import compare, environment
from talkbench.calibrate.compare import ORACLES, Difference
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.progress import Silent
from talkbench.workers import envs
from tests.support import make_clip, row

FLICKER = "vbench.temporal_flickering"


@pytest.mark.parametrize(
    ("ours", "official", "agrees"),
    [
        (0.5, 0.5, True),
        (0.5, 0.51, True),
        (0.5, 0.53, False),
        (None, None, True),
        (None, 0.5, False),
        (0.5, None, False),
    ],
)
def test_values_agree_within_the_tolerance_and_gaps_agree_with_gaps(
    ours: float | None, official: float | None, agrees: bool
) -> None:
    assert Difference("x", "clip.mp4", ours, official, 0.02).agrees is agrees


def test_rows_are_found_by_file_name_whatever_their_weights() -> None:
    rows = [row("a", "one", 0.25, output="vbench.subject_consistency@unverified"), row("a", "two", None)]
    official = {"vbench.subject_consistency": {"one.mp4": 0.25, "two.mp4": 0.5}}
    found = compare.compare(ORACLES["vbench"], rows, official, [Path("one.mp4"), Path("two.mp4")])
    assert [(each.clip, each.ours, each.agrees) for each in found] == [
        ("one.mp4", 0.25, True),
        ("two.mp4", None, False),
    ]


def test_two_clips_of_one_name_are_refused() -> None:
    with pytest.raises(TalkbenchError, match="x.mp4"):
        compare.compare(ORACLES["vbench"], [], {}, [Path("a/x.mp4"), Path("b/x.mp4")])


def test_every_oracle_has_a_script_a_lock_and_runners_with_its_outputs() -> None:
    from talkbench.metrics.base import RUNNERS

    for oracle in ORACLES.values():
        assert (environment.oracles_folder() / f"{oracle.name}.py").is_file()
        assert "==" in (environment.oracles_folder() / f"{oracle.name}.lock").read_text()
        outputs = {output.id for name in oracle.runners for output in RUNNERS.get(name).outputs}
        assert oracle.tolerances.keys() <= outputs


def test_differences_are_stored_beside_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "clips" / "one.mp4")
    (tmp_path / "weights").mkdir()

    def answer(python: Path, oracle: str, arguments: list[str]) -> str:
        assert arguments[arguments.index("--clip") + 1].endswith("one.mp4")
        return json.dumps({"values": {"temporal_flickering": {"one.mp4": 0.5}}})

    monkeypatch.setattr(environment, "run", answer)
    found = checks.calibrate(
        "vbench", tmp_path / "clips", tmp_path / "weights", tmp_path / "run", python=sys.executable, jobs=1
    )
    assert [(each.output, each.official, each.agrees) for each in found] == [(FLICKER, 0.5, False)]
    assert json.loads((tmp_path / "run" / "calibrate-vbench.json").read_text())[0]["official"] == 0.5


def test_an_unknown_package_and_an_absent_interpreter_are_named(tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="Did you mean 'vbench'"):
        checks.calibrate("vbensh", tmp_path, tmp_path, tmp_path)
    with pytest.raises(PrerequisiteError, match="no such file"):
        environment.interpreter("vbench", tmp_path / "python", Silent())


def test_a_package_that_fails_says_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"exit code 2.*--weights"):
        environment.run(Path(sys.executable), "vbench", [])


def test_an_environment_that_is_there_is_taken_and_one_that_cannot_be_made_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TALKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(envs.uv.shutil, "which", lambda _: None)
    monkeypatch.setattr(envs.uv, "find_spec", lambda _: None)
    with pytest.raises(PrerequisiteError, match=r"(?s)pip install uv.*--python PYTHON \(packages: .*vbench\.lock\)"):
        environment.interpreter("vbench", None, Silent())
    own = environment.recipe("vbench").interpreter
    own.parent.mkdir(parents=True)
    own.touch()
    assert environment.interpreter("vbench", None, Silent()) == own


def test_the_lock_of_every_oracle_pins_all_its_packages() -> None:
    assert all(len(environment.recipe(oracle).pins()) > 10 for oracle in ORACLES)
