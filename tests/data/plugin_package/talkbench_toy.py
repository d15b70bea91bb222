"""A package outside talkbench that adds metrics and a command; some of them misbehave on purpose."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction

from talkbench.metrics.base import Needs, Output, Runner, Scores
from talkbench.metrics.series import Terms


@dataclass(frozen=True)
class BrightnessParams:
    """Parameters of the toy."""

    scale: float = 1.0


class Brightness(Runner):
    """Mean level of all pixels."""

    name, version = "toy/brightness", "1"
    outputs = (
        Output(
            "toy.brightness", "Brightness", better="higher", bounds=(0.0, None), series=True, description="Mean level."
        ),
    )
    needs = Needs()
    params_type = BrightnessParams

    def start(self, clip):
        self._terms = Terms()

    def update(self, batch):
        self._terms.add(batch.frames_THWC.mean(axis=(1, 2, 3)) * self.params.scale, batch.seconds_T)

    def finish(self):
        if not len(self._terms):
            from talkbench.errors import Unscorable

            raise Unscorable("no-frames", "no frame came")
        return Scores({"toy.brightness": self._terms.mean()}, series={"toy.brightness": self._terms})


class Raises(Brightness):
    """A bug in somebody else's code."""

    name = "toy/raises"
    outputs = (Output("toy.raises", "Raises", description="Never has a value."),)

    def update(self, batch):
        raise KeyError("a bug of the plug-in")


class NotANumber(Brightness):
    """A network that returns NaN."""

    name = "toy/nan"
    outputs = (Output("toy.nan", "NaN", description="Never has a value."),)

    def finish(self):
        return Scores({"toy.nan": float("nan")})


class Dies(Brightness):
    """Native code that takes the whole process with it, on clips that start dark."""

    name = "toy/dies"
    outputs = (Output("toy.dies", "Dies", description="Number of frames."),)

    def update(self, batch):
        if batch.frames_THWC[0].mean() < 20:
            os._exit(9)
        self._terms.add(batch.frames_THWC.mean(axis=(1, 2, 3)), batch.seconds_T)

    def finish(self):
        return Scores({"toy.dies": float(len(self._terms))})


class TenFramesASecond(Brightness):
    """Asks for other rates than the clip's, of pictures and of sound."""

    name = "toy/tenth"
    outputs = (
        Output("toy.frames", "Frames", description="Frames received."),
        Output("toy.samples", "Samples", description="Samples received."),
    )
    needs = Needs(frame_rate=Fraction(10), audio_rate_hz=8000)

    def start(self, clip):
        self._frames = self._samples = 0

    def update(self, batch):
        assert batch.first_frame == self._frames
        self._frames += len(batch.frames_THWC)

    def hear(self, samples_N, first_sample):
        assert first_sample == self._samples
        self._samples += len(samples_N)

    def finish(self):
        return Scores({"toy.frames": float(self._frames), "toy.samples": float(self._samples)})


def hello() -> None:
    """Say hello from outside."""
    print("hello from a plug-in")
