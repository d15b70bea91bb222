"""What a run tells about itself, and when it stops by itself.

watch = Watch(folder, recipe, num_processes=8, device_name="NVIDIA H200")
means = average(terms)                              # the same numbers on every process
watch.check(step, means, batch, draws)              # NaN or divergence: the batch is saved, the run ends
echo(watch.step(step, means, clips=32, passes=128)) # metrics.jsonl, TensorBoard, a line

FOLDER/metrics.jsonl          one line per step, on the disk before the next step begins
FOLDER/tensorboard/           if TensorBoard is installed
FOLDER/bad-step-7/            rank-0.json (samples, draws, terms), rank-0.safetensors (what they hold)
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from talkbench import atomic
from talkbench.errors import PrerequisiteError, TalkbenchError

from .. import flops
from ..data.sample import Sample
from ..predict import DEVICES
from .config import DistillConfig, SftConfig, TrainRecipe

_log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
RATE = {SftConfig: "--set stage.optimizer.rate=...",
        DistillConfig: "--set stage.generator.rate=... --set stage.fake.rate=..."}  # fmt: skip
"""What lowers a rate."""
TRAINED_PASSES = 3
"""Forward passes that a trained one counts as: a backward pass does twice as much; recomputing is not counted."""


class TrainingStopped(TalkbenchError):  # noqa: N818 - says what happened
    """A run that ended itself: a number was not finite, or a loss left its range."""


@dataclass(frozen=True)
class Limits:
    """What counts as divergence.

    Attributes:
        terms: Names that are watched; every term has to be finite, watched or not.
        factor: How many times its running median a watched term may be.
        window: Steps in the median.
        after: Steps before it is trusted.
    """

    terms: tuple[str, ...] = ("loss",)
    factor: float = 20.0
    window: int = 100
    after: int = 20


def average(terms: Mapping[str, float], device: torch.device | str = "cpu") -> dict[str, float]:
    """Return the mean of each term over processes, so that all of them decide the same; NaN on one is NaN on all.

    Args:
        terms: Of the same names on every process.
        device: Where the processes exchange.
    """
    if not dist.is_initialized():
        return dict(terms)
    values = torch.tensor(list(terms.values()), dtype=torch.float64, device=device)
    dist.all_reduce(values)
    return dict(zip(terms, (values / dist.get_world_size()).tolist(), strict=True))


class Watch:
    """Keeps the record of a run in a folder; every process has one, the first one writes.

    Args:
        folder: Of the run.
        recipe: What is being run.
        num_processes: GPUs, or processes of a CPU.
        device_name: Marketing name; utilisation is told for those whose data sheet is known.
        first_step: The step about to be done; what the file holds of it and later ones, of an interrupted run, goes.
        limits: What counts as divergence.
    """

    def __init__(
        self,
        folder: Path,
        recipe: TrainRecipe,
        *,
        num_processes: int = 1,
        device_name: str = "cpu",
        first_step: int = 0,
        limits: Limits | None = None,
    ) -> None:
        self._folder, self._recipe, self._limits = folder, recipe, limits or Limits()
        sheets = [device for device in DEVICES.values() if device.name.lower() in device_name.lower()]
        self._peak_flops = sheets[0].tensor_flops * num_processes if sheets else None
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._file, self._board = None, None
        path = folder / METRICS
        kept = _lines_before(path, first_step)
        self._history = {
            name: deque((line[name] for line in kept if name in line), maxlen=self._limits.window)
            for name in self._limits.terms
        }
        if self._rank == 0:
            atomic.write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))
            self._file, self._board = atomic.AppendFile(path), _board(folder, first_step)
        self._began = time.monotonic()

    def check(
        self, step: int, terms: Mapping[str, float], batch: Sequence[Sample], draws: Mapping[str, Any] | None = None
    ) -> None:
        """Stop the run if a term is not finite or left its range; call it before the weights are updated.

        Args:
            step: The step at hand.
            terms: Of `average`: equal on all processes, so that all of them stop.
            batch: This process's samples of the step.
            draws: What was drawn for them; plain JSON.

        Raises:
            TrainingStopped: Naming the term, after this process's samples were saved.
        """
        reason = self._reason(terms)
        if reason is None:
            for name, values in self._history.items():
                if name in terms:
                    values.append(terms[name])
            return
        saved = self._save_batch(step, terms, batch, draws or {})
        raise TrainingStopped(
            f"step {step} of {self._recipe.name}: {reason}. The weights are those of the last update; samples, draws "
            f"and terms are in {saved}. Look at them, then go on from the last checkpoint with a lower rate: the same "
            f"command with {RATE[type(self._recipe.stage)]}."
        )

    def _reason(self, terms: Mapping[str, float]) -> str | None:
        for name, value in terms.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
        for name, values in self._history.items():
            if name in terms and len(values) >= self._limits.after:
                usual = median(values)
                if terms[name] > self._limits.factor * usual > 0:
                    return (
                        f"{name} is {terms[name]:.4g}, more than {self._limits.factor:g} times the median "
                        f"{usual:.4g} of the last {len(values)} steps"
                    )
        return None

    def _save_batch(
        self, step: int, terms: Mapping[str, float], batch: Sequence[Sample], draws: Mapping[str, Any]
    ) -> Path:
        folder = self._folder / f"bad-step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "recipe": self._recipe.name, "seed": self._recipe.seed, "step": step,
            "terms": {name: repr(value) for name, value in terms.items()},
            "samples": [sample.id for sample in batch], "draws": dict(draws),
        }  # fmt: skip
        atomic.write_text(folder / f"rank-{self._rank}.json", json.dumps(record, indent=1) + "\n")
        tensors: dict[str, Tensor] = {
            f"{number}.{name}": tensor.cpu().contiguous()
            for number, sample in enumerate(batch)
            for name, tensor in sample.tensors().items()
        }
        save_file(tensors, folder / f"rank-{self._rank}.safetensors")
        return folder

    def step(self, step: int, terms: Mapping[str, float], *, clips: int, passes: float) -> str:
        """Write a step down and return its line.

        Args:
            step: The step done.
            terms: Of `average`.
            clips: Of all processes.
            passes: Forward passes of the network over all processes; a trained one counts `TRAINED_PASSES`.

        Raises:
            PrerequisiteError: If it cannot be written down (a full disk).
        """
        now = time.monotonic()
        seconds, self._began = now - self._began, now
        model = self._recipe.model
        told = dict(terms) | {
            "seconds": seconds,
            "clips_per_second": clips / seconds,
            "tokens_per_second": passes * model.num_tokens / seconds,
        }
        if self._peak_flops is not None:
            told["utilisation"] = passes * flops.dit_flops(model) / (seconds * self._peak_flops)
        if self._file is not None:
            self._append(json.dumps({"step": step, **told}))
        if self._board is not None:
            for name, value in told.items():
                self._board.add_scalar(name, value, step)
        return self._line(step, terms, told)

    def _append(self, line: str) -> None:
        assert self._file is not None  # noqa: S101 - of the first process
        try:
            self._file.append([line])
        except OSError as error:
            raise PrerequisiteError(
                f"{self._file.path} cannot be written: {error}. Free space there, and start the same command again: it "
                "goes on from the last checkpoint."
            ) from error

    def _line(self, step: int, terms: Mapping[str, float], told: Mapping[str, float]) -> str:
        parts = [
            f"step {step + 1}/{self._recipe.stage.steps}",
            *(f"{name} {value:.4g}" for name, value in terms.items()),
        ]
        parts += [f"{told['clips_per_second']:.3g} clips/s", f"{told['tokens_per_second']:.3g} tokens/s"]
        if "utilisation" in told:
            parts.append(f"{told['utilisation']:.0%} of peak")
        return "  ".join(parts)

    def close(self) -> None:
        """Release the files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _lines_before(path: Path, first_step: int) -> list[dict[str, Any]]:
    """Return what a run wrote before a step; a line torn by a crash is none."""
    if not path.is_file():
        return []
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [record for line in whole if (record := json.loads(line))["step"] < first_step]


def _board(folder: Path, first_step: int) -> Any:
    """Return a TensorBoard writer, or None after saying so once."""
    if find_spec("tensorboard") is None:
        _log.warning(
            "TensorBoard is not installed: the run is in %s alone; `pip install tensorboard` for more", METRICS
        )
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
