"""What the VBench dimensions with networks have in common: parameters, outputs, and the pieces of VBench-Long.

VBench scores a clip as a whole. VBench-Long cuts it into pieces of two seconds, scores each as a clip of its own and
averages; its authors use it above five seconds (Vchitect/VBench issue 122). Since the "first frame" starts anew in
every piece, slow drift does not show in it. We give both under names of their own.

Pieces are cut by display time: frame at second t belongs to piece floor(t / 2). A last piece shorter than half of that
is left out unless it is the only one, because a few frames would count as much as fifty. Unlike the official program we
do not encode the pieces again, and we leave out its clip-to-clip term, whose weight is 0 by default.
"""

from __future__ import annotations

import math
from array import array
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.metrics.base import Output, Scores
from talkbench.metrics.series import Terms

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["fp32", "bf16"]

_SAME_TIME = 1e-6


@dataclass(frozen=True)
class VBenchParams:
    """Parameters of every VBench dimension with a network.

    Attributes:
        precision: ``fp32`` as the official code on a CPU, or ``bf16`` for matrix products and convolutions.
        compile: Whether the network goes through `torch.compile`; rounding changes a little.
        piece_seconds: Length of a piece of VBench-Long (2 s for custom input there).
    """

    precision: Precision = "fp32"
    compile: bool = False
    piece_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise TalkbenchError(f"precision {self.precision!r} is not known. Known: {', '.join(get_args(Precision))}.")
        if not self.piece_seconds > 0:
            raise TalkbenchError(f"piece_seconds is {self.piece_seconds}; it must be above 0.")


def outputs(dimension: str, label: str, what: str, *, sampled: bool = False) -> tuple[Output, Output]:
    """Return a dimension's output for whole clips and the one for VBench-Long.

    Args:
        dimension: Its official name.
        label: Column head.
        what: What is measured, for the description.
        sampled: Whether there are fewer terms than pairs of frames.
    """

    def output(suite: str, head: str, description: str, *, series: bool) -> Output:
        return Output(
            f"{suite}.{dimension}",
            head,
            better="higher",
            bounds=(0.0, 1.0),
            scale=100.0,
            series=series,
            sampled=sampled and series,
            rewards_stillness=True,
            description=description,
        )

    return (
        output("vbench", label, f"{what}; a frozen clip scores 100.", series=True),
        output(
            "vbench_long", f"{label} (2 s)", f"{what}, mean over pieces of two seconds: blind to drift.", series=False
        ),
    )


def casting(params: VBenchParams, device: str) -> AbstractContextManager[object]:
    """Return the context in which a network on `device` computes in the precision of the parameters."""
    import torch

    if params.precision == "bf16":
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
    return nullcontext()


def prepared(net: nn.Module, params: VBenchParams) -> nn.Module:
    """Return a network ready to be loaded, compiled if the parameters say so."""
    if params.compile:
        net.compile()
    return net


class Pieces:
    """Collects the terms of each piece of VBench-Long, 16 bytes a piece.

    Args:
        seconds: Length of a piece.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._totals = array("d")
        self._counts = array("q")
        self._indices = array("q")

    def index(self, at_seconds: float) -> int:
        """Return the piece that a frame belongs to."""
        return math.floor((at_seconds + _SAME_TIME) / self._seconds)

    def add(self, index: int, term: float) -> None:
        """Take a term of a piece; pieces come in order."""
        if not self._indices or self._indices[-1] != index:
            self._indices.append(index)
            self._totals.append(0.0)
            self._counts.append(0)
        self._totals[-1] += term
        self._counts[-1] += 1

    def means(self, end_seconds: float) -> list[float]:
        """Return the mean term of each piece that counts.

        Args:
            end_seconds: When the last frame of the clip goes.
        """
        means = [total / count for total, count in zip(self._totals, self._counts, strict=True)]
        if len(means) > 1:
            last_seconds = end_seconds - self._indices[-1] * self._seconds
            if last_seconds < self._seconds / 2 - _SAME_TIME:
                means.pop()
        return means


def scores(declared: tuple[Output, ...], terms: Terms, pieces: Pieces, end_seconds: float) -> Scores:
    """Return the scores of a clip with at least one term: mean over terms, and mean over pieces.

    `details` holds the number of terms, from which the frame-weighted mean over clips can be computed that the official
    program prints when it runs as one process.
    """
    whole, long = (output.id for output in declared)
    means = pieces.means(end_seconds)
    found = Scores(
        {whole: terms.mean()}, details={"num_terms": len(terms), "num_pieces": len(means)}, series={whole: terms}
    )
    if means:
        found.values[long] = math.fsum(means) / len(means)
    else:
        found.missing[long] = Unscorable("pieces-too-short", "no piece of VBench-Long has enough frames to compare")
    return found
