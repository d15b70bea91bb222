"""What Tables 2 and 3 of the report vary in stage 2, as changes of a recipe, and what each variant costs.

Source: arXiv 2512.23379, Tables 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from statistics import fmean

from .config import DistillConfig


@dataclass(frozen=True)
class Variant:
    """A row of a table.

    Attributes:
        name: Of its runs and its system; the same in every table that has it, so that it is trained once.
        label: As the table prints it.
        fields: Of the recipe, as `changed` takes them; what is not named stays the report's.
    """

    name: str
    label: str
    fields: Mapping[str, str] = field(default_factory=dict)


TABLES: dict[str, tuple[Variant, ...]] = {
    "table2": (
        Variant("k1", "K = 1", {"stage.chunks": "1"}),
        Variant("k3", "K = 3", {"stage.chunks": "3"}),
        Variant("k5", "K = 5", {"stage.chunks": "5"}),
        Variant("random", "random"),
    ),
    "table3": (
        Variant("ground-truth", "ground truth", {"stage.motion_source": "ground truth", "stage.motion_noise": "false"}),
        Variant("predicted", "predicted", {"stage.motion_noise": "false"}),
        Variant("random", "predicted, noise"),
        Variant("noise-loss", "predicted, noise, loss", {"stage.motion_loss": "true"}),
    ),
}


def options(variant: Variant) -> Iterator[str]:
    """Yield what the training command is given for a variant."""
    for name, value in variant.fields.items():
        yield from ("--set", f"{name}={value}")


def expected_passes(stage: DistillConfig, num_steps: int) -> float:
    """Return the forward passes that a run of stage 2 is expected to take, over all clips and processes.

    Args:
        stage: What is learnt.
        num_steps: Of the sampler that rolls out.
    """
    from .watch import TRAINED_PASSES

    chunks = fmean(range(1, stage.max_chunks + 1)) if stage.chunks == "random" else stage.chunks
    before = num_steps * (chunks - 1)
    scores = 3 if stage.text_scale == 1 else 4
    fake = before + (num_steps + 1) / 2 + TRAINED_PASSES
    generator = before + (num_steps - 1) / 2 + scores + TRAINED_PASSES
    return stage.batch * (stage.steps * fake + ceil(stage.steps / stage.generator_every) * generator)
