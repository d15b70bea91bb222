"""VBench-Long against its description in plain words: pieces of two seconds, each scored as a clip, and their mean.

The expected values come from whole clips in memory and exact fractions, and share nothing with the runners: cut the
clip every two seconds of display time; score each piece as VBench scores a clip, its own first frame being the one that
others are compared with; leave out a last piece of less than a second, unless it is the only one; take the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from talkbench.media.clip import ClipFacts, FrameBatch, Frames
from talkbench.metrics import networks
from talkbench.metrics.base import Context, Runner, Scores
from talkbench.metrics.smoothness import SmoothnessRunner
from talkbench.weights.catalog import WeightFile
from tests.unit.metrics.test_consistency import ColourRunner
from tests.unit.metrics.test_smoothness import Average

CONTEXT = Context(threads=1, weights={name: WeightFile(name, Path(name), name, "released") for name in ("dino", "amt")})
LENGTHS = [
    (Fraction(25), 160, [50, 50, 50]),
    (Fraction(25), 124, [50, 50]),
    (Fraction(25), 125, [50, 50, 25]),
    (Fraction(25), 20, [20]),
    (Fraction(30), 130, [60, 60]),
    (Fraction(24), 121, [48, 48, 25]),
    (Fraction(5), 27, [10, 10, 7]),
    (Fraction(15, 2), 49, [15, 15, 15]),
    (Fraction(30000, 1001), 150, [60, 60, 30]),
    (Fraction(24000, 1001), 119, [48, 48]),
]
"""Rate, frames, and frames of each piece that counts."""


def pieces(frames_THWC: Frames, rate: Fraction) -> list[Frames]:
    """Return the pieces that count."""
    of_frame = np.array([int(Fraction(number) / rate / 2) for number in range(len(frames_THWC))])
    cut = [frames_THWC[of_frame == piece] for piece in range(of_frame[-1] + 1)]
    last_seconds = len(frames_THWC) / rate - 2 * (len(cut) - 1)
    return cut[:-1] if len(cut) > 1 and last_seconds < 1 else cut


def consistency(frames_THWC: Frames) -> float:
    """VBench's consistency where the feature of a frame is its mean colour from -1 to 1."""
    features_TD = frames_THWC.reshape(len(frames_THWC), -1, 3).mean(axis=1) / 127.5 - 1
    features_TD /= np.linalg.norm(features_TD, axis=1, keepdims=True)
    terms = []
    for number in range(1, len(features_TD)):
        before = max(0.0, float(features_TD[number - 1] @ features_TD[number]))
        first = max(0.0, float(features_TD[0] @ features_TD[number]))
        terms.append((before + first) / 2)
    return sum(terms) / len(terms)


def smoothness(frames_THWC: Frames) -> float:
    """VBench's motion smoothness where a frame is predicted as the mean of its neighbours, cut off to levels."""
    given = frames_THWC[::2].astype(np.float32) / 255
    terms = []
    for number in range(len(given) - 1):
        predicted = ((given[number] + given[number + 1]) / 2 + np.float32(1e-4)) * 255
        levels = np.clip(predicted, 0, 255).astype(np.uint8).astype(int)
        terms.append(np.abs(levels - frames_THWC[2 * number + 1].astype(int)).mean())
    return (255 - sum(terms) / len(terms)) / 255


def score(runner: Runner, frames_THWC: Frames, rate: Fraction) -> Scores:
    height, width = frames_THWC.shape[1:3]
    runner.start(ClipFacts(width, height, rate, has_audio=False))
    for start in range(0, len(frames_THWC), 16):
        part = frames_THWC[start : start + 16]
        runner.update(FrameBatch(part, start, np.array([float((start + i) / rate) for i in range(len(part))])))
    return runner.finish()


@pytest.fixture(autouse=True)
def known_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_loaded", {})
    monkeypatch.setattr(SmoothnessRunner, "_build", lambda self, path: Average())


def colours(num_frames: int, side: int) -> Frames:
    """Return plain frames whose colour wanders far, and faster and faster: which frames share a piece matters."""
    rng = np.random.Generator(np.random.PCG64(num_frames))
    steps_T3 = rng.uniform(0, 0.6, (num_frames, 3)) * np.linspace(0, 1, num_frames)[:, None]
    colour_T3 = 160 + 80 * np.sin(np.cumsum(steps_T3, axis=0))
    return np.broadcast_to(colour_T3[:, None, None], (num_frames, side, side, 3)).astype(np.uint8)


@pytest.mark.parametrize(("rate", "num_frames", "sizes"), LENGTHS, ids=str)
@pytest.mark.parametrize(
    ("runner_type", "plain", "side"),
    [(ColourRunner, consistency, 8), (SmoothnessRunner, smoothness, 128)],
    ids=["consistency", "smoothness"],
)
def test_it_is_the_mean_over_pieces_of_two_seconds(
    runner_type: type[Runner],
    plain: Callable[[Frames], float],
    side: int,
    rate: Fraction,
    num_frames: int,
    sizes: list[int],
) -> None:
    frames_THWC = colours(num_frames, side)
    whole, long = (output.id for output in runner_type.outputs)
    found = score(runner_type(context=CONTEXT), frames_THWC, rate)
    cut = pieces(frames_THWC, rate)
    assert [len(piece) for piece in cut] == sizes
    assert found.details["num_pieces"] == len(sizes)
    assert found.values[whole] == pytest.approx(plain(frames_THWC), abs=1e-6)
    assert found.values[long] == pytest.approx(sum(map(plain, cut)) / len(cut), abs=1e-6)
    if len(sizes) > 1:
        assert abs(found.values[long] - found.values[whole]) > 1e-4
