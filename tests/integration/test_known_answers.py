"""Systems whose ranking is known, generated and scored end to end: the report must rank them so."""

from __future__ import annotations

import numpy as np
import pytest

from talkbench import api
from talkbench.mini.suite import mini_suite
from talkbench.schema import Sidecar
from talkbench.store.run import Run, read_record
from talkbench.systems.known import EXPECTATIONS, SYSTEMS
from talkbench.systems.planning import asked_of
from talkbench.validity.known_answers import check

pytestmark = pytest.mark.slow
SUITE = mini_suite(num_short=12, num_long=3, long_seconds=60, height=128, width=128)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("known") / "run"
    made = api.generate(SUITE, ["known"], path)
    synced = api.score(path, metrics=["sync_frame"], items=["mini-s*"])  # no known answer asks for it on long items
    scored = api.score(path, metrics=["flicker", "motion", "speed", "av"])
    assert not any(summary.any_failed for summary in (made, synced, scored))
    return Run(path)


def test_every_known_ranking_is_found(run: Run) -> None:
    verdicts = check(run.current_rows())
    assert len(verdicts) == len(EXPECTATIONS)
    wrong = [v for v in verdicts if not v.holds]
    assert not wrong, wrong


def test_a_swapped_pair_would_be_noticed(run: Run) -> None:
    swap = {"recorded": "flicker", "flicker": "recorded"}
    rows = [r | {"system": swap.get(r["system"], r["system"])} for r in run.current_rows()]
    assert not all(v.holds for v in check(rows))


def test_the_shift_of_the_sound_is_found_exactly(run: Run) -> None:
    offsets: dict[str, dict[str, float]] = {}
    for r in run.current_rows():
        if r["output"] == "av.offset" and r["status"] == "ok":
            offsets.setdefault(r["system"], {})[r["item"]] = r["value"]
    assert len(offsets["recorded"]) == 15
    assert all(abs(value) < 1 for value in offsets["recorded"].values())
    for late in (2, 5, -5):
        for item, value in offsets[f"audio_shifted{late:+d}"].items():
            assert value == pytest.approx(offsets["recorded"][item] - late, abs=0.1)


def test_the_period_of_the_seams_is_reported(run: Run) -> None:
    rows = [
        r for r in run.current_rows()
        if r["system"] == "seams" and r["output"] == "drift.seam_strength.vbench.temporal_flickering"
    ]  # fmt: skip
    assert [r["details"]["seam_period_frames"] for r in rows] == [28] * 3


def test_ground_truth_lies_beside_each_clip(run: Run) -> None:
    for system in SYSTEMS:
        for item in asked_of(system, SUITE):
            path = run.path / "clips" / system.name / f"{item.id}.clip.json"
            sidecar = read_record(path, Sidecar)
            assert sidecar.truth is not None
            assert len(sidecar.truth.mouth_opening) == round(item.duration_seconds * 25)
            assert sidecar.truth.identity == item.identity
            assert (sidecar.timing is not None) == (not system.name.startswith(("recorded", "audio_shifted")))
    still = read_record(run.path / "clips" / "frozen_mouth" / "mini-s01.clip.json", Sidecar)
    assert still.truth is not None
    assert np.ptp(still.truth.mouth_opening) == 0


def test_generating_again_makes_nothing_and_a_lost_clip_is_made_again(run: Run) -> None:
    path = run.path / "clips" / "static_image" / "mini-s01.mp4"
    bytes_before = path.read_bytes()
    other = run.path / "clips" / "static_image" / "mini-s02.mp4"
    stamp = other.stat().st_mtime_ns
    path.unlink()
    api.generate(SUITE, ["static_image"], run.path, jobs=1)
    assert path.read_bytes() == bytes_before
    assert other.stat().st_mtime_ns == stamp
