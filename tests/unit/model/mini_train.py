"""Training runs of milliseconds per step through the real loop and command line: float64, two blocks, invented clips.

python -m tests.unit.model.mini_train --recipe sft_mini --data DATA --out RUN
torchrun --nproc-per-node 2 -m tests.unit.model.mini_train --recipe sft_mini --data DATA --out RUN
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model import train
from model.data import identity, shards
from model.data.shards import Encoded, Header
from model.training import checkpoints
from model.training.config import DistillConfig, OptimizerConfig, SftConfig, TrainRecipe
from model.training.recipes import RECIPES
from model.training.starting import Job
from model.training.watch import METRICS, Watch
from tests.unit.model import tiny_training as tiny

CHUNKS = 2
COMMAND = "python -m model.data.prepare --source mini"
STEPS, SAVE_EVERY = 4, 2
FAST = OptimizerConfig(1e-3, (0.0, 0.999), clip_norm=10.0)


def sft_mini() -> TrainRecipe:
    """Stage 1, with averages."""
    return _recipe("sft_mini", SftConfig(steps=STEPS, batch=4, optimizer=FAST, drop_both=0.3), ema_decay=0.5)


def distill_mini() -> TrainRecipe:
    """Stage 2, at most two chunks, the generator every second step."""
    stage = DistillConfig(
        steps=STEPS, batch=2, generator=FAST, fake=FAST, generator_every=2, max_chunks=CHUNKS, text_scale=2.0
    )
    return _recipe("distill_mini", stage)


def _recipe(name: str, stage: SftConfig | DistillConfig, ema_decay: float | None = None) -> TrainRecipe:
    return TrainRecipe(
        name, "for tests", tiny.MODEL, stage, save_every=SAVE_EVERY, precision="float64",
        checkpoint_activations=False, ema_decay=ema_decay,
    )  # fmt: skip


MINI: dict[str, Callable[[], TrainRecipe]] = {"sft_mini": sft_mini, "distill_mini": distill_mini}


def write_clips(folder: Path, count: int = 6, *, first: int = 0, chunks: int = CHUNKS, **encoders: str) -> Path:
    """Write invented clips as if they had been encoded; `encoders` replaces digests in the header."""
    told = identity.of_encoders(tiny.MODEL, None) | encoders
    header = Header(told, chunks, f"{first} {count}", 1, COMMAND)
    header.write(folder)
    samples = [tiny.sample(f"clip-{number}", chunks, seed=10 * number) for number in range(first, first + count)]
    shards.write_shard(folder, 0, [Encoded(sample, "16x16", f"v:{sample.id}", "p:0") for sample in samples])
    shards.write_null_text(folder, tiny.null_text())
    shards.finish(folder, header)
    return folder


def bytes_of(run: Path, step: int = STEPS) -> dict[str, str]:
    """Return digests of what a checkpoint holds: weights, moments, averages."""
    record = json.loads((run / f"step-{step}" / checkpoints.STATE).read_text())
    return {name: each for name, each in record["files"].items() if name.endswith(".distcp")}


def told(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    clock = ("seconds", "clips_per_second", "tokens_per_second", "utilisation")
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


def train_and_die(job: Job, step: int) -> None:
    """Train, and be killed when a step is done and not written down."""
    write_down = Watch.step

    def die(self: Watch, at: int, *args: Any, **kwargs: Any) -> str:
        if at == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return write_down(self, at, *args, **kwargs)

    Watch.step = die  # type: ignore[method-assign]
    train.train(job)


if __name__ == "__main__":
    RECIPES.update(MINI)
    train.main()
