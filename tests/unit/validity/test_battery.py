"""Verdicts on how outputs respond to known harm, from rows whose values are given."""

from __future__ import annotations

from typing import Any

import pytest

from talkbench.validity import battery
from talkbench.validity.degradations import AS_IS, BY_NAME
from tests.support import row

FLICKER = "vbench.temporal_flickering"
OFFSET = "sync.frame.offset_frames@mini-domain"


def rows(output: str, changes: dict[str, list[float]], *, start: float, clips: int = 4) -> list[dict[str, Any]]:
    """Return rows of `clips` clips as they are, and changed by so much at each level of each degradation."""
    made = []
    for number in range(clips):
        item, base = f"i{number}", start + 0.001 * number
        made.append(row(AS_IS, item, base, output=output))
        for name, steps in changes.items():
            for level, change in zip(BY_NAME[name].levels, steps, strict=True):
                made.append(row(BY_NAME[name].system(level), item, base + change * (1 + 0.01 * number), output=output))
    return made


def verdict(made: list[dict[str, Any]], degradation: str) -> battery.Verdict:
    (found,) = [each for each in battery.judge(made) if each.degradation == degradation]
    return found


def test_what_worsens_with_every_level_passes() -> None:
    found = verdict(rows(FLICKER, {"flicker": [-0.01, -0.02, -0.04]}, start=0.9), "flicker")
    assert found.passed is True
    assert [step.level for step in found.steps] == [1, 2, 4]
    assert [step.num_clips for step in found.steps] == [4, 4, 4]


@pytest.mark.parametrize("steps", [[-0.01, -0.04, -0.02], [0.01, 0.02, 0.04], [0.0, 0.0, 0.0]])
def test_what_worsens_only_sometimes_or_improves_or_stays_fails(steps: list[float]) -> None:
    assert verdict(rows(FLICKER, {"flicker": steps}, start=0.9), "flicker").passed is False


@pytest.mark.parametrize(("moved", "passed"), [(0.0001, True), (-0.003, True), (0.005, False)])
def test_what_must_stay_may_move_a_tenth_of_what_harm_moves(moved: float, passed: bool) -> None:
    made = rows(FLICKER, {"flicker": [-0.01, -0.02, -0.04], "audio_other": [moved]}, start=0.9)
    assert verdict(made, "audio_other").passed is passed


@pytest.mark.parametrize(
    ("steps", "passed"), [([-1, -2, -5, -10], True), ([1, 2, 5, 10], False), ([-1, -2, -5, -9], False)]
)
def test_an_offset_follows_late_sound_with_the_right_sign(steps: list[float], passed: bool) -> None:
    made = rows(OFFSET, {"audio_late": [float(step) for step in steps]}, start=0.0)
    for each in made:
        each["value"] = round(each["value"])
    assert verdict(made, "audio_late").passed is passed


def test_what_has_no_right_answer_is_shown_and_never_judged() -> None:
    found = verdict(rows(FLICKER, {"still": [0.1]}, start=0.9), "still")
    assert found.passed is None
    assert found.steps


def test_scores_from_unknown_weights_are_shown_and_never_judged() -> None:
    made = rows("vbench.subject_consistency@unverified", {"morph": [-0.1, -0.2, -0.3]}, start=0.9)
    found = verdict(made, "morph")
    assert found.passed is None
    assert "unknown origin" in found.why


@pytest.mark.parametrize("num_lost", [1, 4])
@pytest.mark.parametrize("level", [1, 4])
def test_clips_that_lost_their_value_are_counted_and_break_the_expectation(num_lost: int, level: int) -> None:
    made = rows(FLICKER, {"flicker": [-0.01, -0.02, -0.04]}, start=0.9)
    for each in [each for each in made if each["system"] == f"flicker@{level}"][:num_lost]:
        each.update(value=None, status="failed", reason="exception")
    found = verdict(made, "flicker")
    (step,) = [step for step in found.steps if step.level == level]
    assert (step.num_clips, step.num_lost, step.change is None) == (4 - num_lost, num_lost, num_lost == 4)
    assert (found.passed, found.why) == (False, f"{num_lost} of 4 clips lost their value at level {level}")


def test_what_is_only_shown_is_shown_without_its_values_too() -> None:
    made = rows(FLICKER, {"still": [0.1], "flicker": [-0.01, -0.02, -0.04]}, start=0.9)
    for each in made:
        if each["system"] == "still@1":
            each.update(value=None, status="unscorable", reason="one-frame")
    found = verdict(made, "still")
    assert (found.passed, found.steps[0].num_clips) == (None, 0)


def test_only_degradations_that_say_something_are_made() -> None:
    assert {each.name for each in battery.needed([FLICKER])} == {"flicker", "noise", "audio_other", "still"}
    assert battery.needed(["speed.fps"]) == []


def test_every_expectation_names_a_degradation_and_an_output_that_exist() -> None:
    from talkbench.stats.aggregate import known_outputs

    known = known_outputs()
    for expectation in battery.EXPECTATIONS:
        assert expectation.degradation in BY_NAME
        assert expectation.output in known
