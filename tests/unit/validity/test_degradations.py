"""Spoiled clips: each has the one thing wrong that its name says, more of it with each level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from talkbench import checks
from talkbench.errors import TalkbenchError
from talkbench.media import audio, decode, probe
from talkbench.validity import degradations, make
from talkbench.validity.degradations import BY_NAME, DEGRADATIONS
from tests.support import make_clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [make_clip(folder / f"{name}.mp4", seed=seed, speed=1 + seed) for seed, name in enumerate("ab")]


def pixels(path: Path) -> np.ndarray:
    facts = probe.probe(path)
    with probe.open_clip(path) as container:
        reader = decode.VideoReader(container, path, facts.video)
        return np.concatenate([batch.frames_THWC for batch in reader.batches()]).astype(float)


def sound(path: Path) -> np.ndarray:
    return np.concatenate(list(audio.blocks(path, 16_000)))


def spoil(clips: list[Path], name: str, level: float, path: Path) -> Path:
    degradations.write(BY_NAME.get(name), level, clips[0], clips[1], path)
    return path


@pytest.mark.parametrize("name", ["stutter", "flicker", "noise", "blur", "codec", "colour_cast", "morph"])
def test_pictures_are_further_from_the_clip_with_every_level(clips: list[Path], name: str, tmp_path: Path) -> None:
    plain = pixels(spoil(clips, "as_is", 0, tmp_path / "plain.mp4"))
    away = []
    for level in BY_NAME[name].levels:
        spoiled = pixels(spoil(clips, name, level, tmp_path / f"{level}.mp4"))
        assert spoiled.shape == plain.shape
        away.append(np.abs(spoiled - plain).mean())
    assert away == sorted(away)
    assert away[0] > 0.2


def test_late_sound_is_late_by_whole_frames(clips: list[Path], tmp_path: Path) -> None:
    plain = sound(spoil(clips, "as_is", 0, tmp_path / "plain.mp4"))
    late = sound(spoil(clips, "audio_late", 5, tmp_path / "late.mp4"))
    lag = np.correlate(late[:12_000], plain[:8_000], mode="valid").argmax()
    assert abs(lag - 5 * 640) <= 40


def test_a_still_clip_is_its_first_frame_with_the_same_sound(clips: list[Path], tmp_path: Path) -> None:
    path = spoil(clips, "still", 1, tmp_path / "still.mp4")
    frames = pixels(path)
    assert np.abs(frames - frames[0]).mean() < 0.5
    assert sound(path).std() > 0.01


def test_a_run_is_planned_once_and_goes_on_where_it_stopped(clips: list[Path], tmp_path: Path) -> None:
    chosen = [BY_NAME["still"], BY_NAME["noise"]]
    tasks = make.plan(clips, chosen, tmp_path)
    assert len(tasks) == 2 * (1 + 1 + 3)
    tasks[0].path.parent.mkdir(parents=True)
    tasks[0].path.touch()
    assert len(make.plan(clips, chosen, tmp_path)) == len(tasks) - 1
    with pytest.raises(TalkbenchError, match="two clips"):
        make.plan(clips[:1], chosen, tmp_path)


def test_two_clips_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match=r"x\.mp4"):
        make.plan([Path("1/x.mp4"), Path("2/x.mp4")], [BY_NAME["still"]], tmp_path)


@pytest.mark.parametrize("change", ["content", "fewer", "unlisted"])
def test_degraded_clips_of_other_clips_are_not_taken_for_those_of_the_given_ones(tmp_path: Path, change: str) -> None:
    given, folder = [tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "run" / "clips"
    for path in given:
        path.write_text(path.stem)
    make.claim(given, folder)
    make.claim(given, folder)
    (folder / "as_is").mkdir()
    (folder / "as_is" / "a.mp4").touch()
    if change == "content":
        given[1].write_text("other")
    elif change == "fewer":
        given.pop()
    else:
        (folder / "sources.json").unlink()
    with pytest.raises(TalkbenchError, match="--out .*run-2"):
        make.claim(given, folder)


def test_flicker_responds_as_it_must_from_clips_to_verdicts(clips: list[Path], tmp_path: Path) -> None:
    verdicts = checks.validity(["flicker"], tmp_path / "run", clips=clips[0].parent)
    judged = {each.degradation: each.passed for each in verdicts}
    assert judged == {"flicker": True, "noise": True, "audio_other": True, "still": None}
    assert (tmp_path / "run" / "validity.json").is_file()
    assert [each.as_dict() for each in checks.validity(["flicker"], tmp_path / "run", clips=clips[0].parent)] == [
        each.as_dict() for each in verdicts
    ]


def test_a_metric_about_which_nothing_is_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="speed"):
        checks.validity(["speed"], tmp_path)


def test_names_of_degradations_are_names_of_folders() -> None:
    assert len({each.system(level) for each in DEGRADATIONS for level in each.levels}) == sum(
        len(each.levels) for each in DEGRADATIONS
    )
