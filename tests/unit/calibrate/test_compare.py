"""Ours beside official: what counts as agreement, and how the official side is asked."""

from __future__ import annotations

import json
import os
import runpy
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

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


SUBJECT = "vbench.subject_consistency"


def compared(tmp_path: Path, rows: list[dict[str, Any]], official: dict[str, float]) -> list[Difference]:
    clips = [tmp_path / name for name in official]
    for clip in clips:
        clip.write_text(clip.stem)
    found = compare.compare(ORACLES["vbench"], rows, {SUBJECT: official}, clips, "d")
    return [each for each in found if each.output == SUBJECT]


def row_of(content: str, value: float | None, **changes: Any) -> dict[str, Any]:
    digest = sha256(content.encode()).hexdigest()
    return row("a", "one", value, **{"output": SUBJECT, "clip_sha256": digest} | changes)


def test_rows_are_found_by_the_files_bytes_whatever_their_names_and_weights(tmp_path: Path) -> None:
    rows = [
        row_of("one", 0.25, output=f"{SUBJECT}@unverified"),
        row_of("another file called one.mp4", 0.75),
        row_of("two", None),
    ]
    found = compared(tmp_path, rows, {"one.mp4": 0.25, "two.mp4": 0.5})
    assert [(each.clip, each.ours, each.agrees) for each in found] == [
        ("one.mp4", 0.25, True),
        ("two.mp4", None, False),
    ]


def test_values_of_another_device_are_not_compared_and_the_row_says_so(tmp_path: Path) -> None:
    (found,) = compared(tmp_path, [row_of("one", 0.25, device="a GPU")], {"one.mp4": 0.25})
    assert not found.agrees
    assert found.reason is not None
    assert "a GPU" in found.reason


def test_a_dimension_without_its_weight_file_is_listed_with_the_reason(tmp_path: Path) -> None:
    clip = tmp_path / "one.mp4"
    clip.touch()
    found = compare.compare(ORACLES["vbench"], [], {FLICKER: {"one.mp4": 0.5}}, [clip], "d")
    assert {each.output: each.reason for each in found if each.reason} == {
        SUBJECT: "no dino_vitbase16_pretrain.pth in the weight folder",
        "vbench.background_consistency": "no ViT-B-32.pt in the weight folder",
        "vbench.motion_smoothness": "no amt-s.pth in the weight folder",
    }
    assert not any(each.agrees for each in found)


def test_two_clips_of_one_name_are_refused() -> None:
    with pytest.raises(TalkbenchError, match=r"x\.mp4"):
        compare.compare(ORACLES["vbench"], [], {}, [Path("a/x.mp4"), Path("b/x.mp4")], "d")


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
    assert [(each.output, each.official, each.agrees) for each in found if not each.reason] == [(FLICKER, 0.5, False)]
    assert json.loads((tmp_path / "run" / "calibrate-vbench.json").read_text())[0]["official"] == 0.5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can be taken away on Linux only")
def test_the_official_sync_pipeline_sees_one_core_as_our_encoder_has_one_thread() -> None:
    script = runpy.run_path(str(environment.oracles_folder() / "syncnet.py"))
    cores = os.sched_getaffinity(0)
    try:
        script["keep_to_one_core"]()
        assert len(os.sched_getaffinity(0)) == 1
    finally:
        os.sched_setaffinity(0, cores)


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
