"""`make bench-train`: a training step with and without what saves memory or time, as ratios in one run on this CPU.

    python -m tests.bench.train

Sizes are those of the `tiny` recipe (144 tokens, four blocks), with random weights and clips. Memory is what autograd
keeps for the backward pass, counted from the tensors it saves (storages once, weights left out): exact and the same in
every run. Times are medians over alternating repeats with one thread per process; on a busy machine they say little.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor

from model import flow, initial
from model.data.sample import Sample
from model.dit import DiT
from model.parallel import shard
from model.pipeline import Encoders, build_encoders
from model.training import rollout, sft
from model.training.conditions import Velocity, given, windows
from model.training.config import DistillConfig, SftConfig, TrainRecipe
from model.training.draws import Draws
from model.training.recipes import train_recipe
from talkbench.provenance import describe
from tests.bench.__main__ import save, show
from tests.unit.model.processes import run

CPU = torch.device("cpu")
REPEATS, STEPS_PER_REPEAT = 7, 3
CHUNKS = (1, 3, 5)
CLIPS = 4
"""Per step, where processes share them."""
MEGABYTE = 1e6
Lines = list[dict[str, object]]


def invented(recipe: TrainRecipe, number: int = 0, chunks: int = max(CHUNKS)) -> Sample:
    """Return a clip of random numbers."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(number))
    model, latents = recipe.model, recipe.model.latent_shape
    frames = model.stream.clip_frames + model.dit.audio.window // 2
    return Sample(
        id=f"clip-{number}",
        latents_CThw=draw(latents),
        motion_KCThw=draw(chunks, latents[0], 2, *latents[2:]),
        reference_CThw=draw(latents),
        image_MC=draw(model.image.num_tokens, model.image.dim),
        text_LC=draw(20, model.text.dim),
        speech_KFLC=draw(chunks, frames, model.speech.num_layers, model.speech.dim),
    )


class Trainee:
    """A network in stage 1, and its optimiser."""

    def __init__(self, recipe: TrainRecipe, mesh: shard.DeviceMesh | None = None) -> None:
        self.recipe = recipe
        whole = Velocity(initial.made(partial(DiT, recipe.model.dit), 0, CPU, torch.float32))
        self.net = shard.distribute(whole, recipe, mesh, CPU, trained=True)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), 1e-5)
        self._null_text_LC = torch.zeros(20, recipe.model.text.dim)
        self._done = 0

    def loss(self, sample: Sample) -> Tensor:
        """Return the loss of a clip; every call draws the same."""
        return sft.loss(self.net, sample, self.recipe, Draws(0, 0, 0), 0, self._null_text_LC).loss

    def step(self, samples: list[Sample]) -> None:
        """Learn from clips."""
        for number, sample in enumerate(samples):
            shard.synchronise(self.net, last=number == len(samples) - 1)
            (self.loss(sample) / len(samples)).backward()
        shard.clip_gradients(self.net, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def held_bytes(self) -> int:
        """Return what this process holds in an update: weights, as many gradients, moments."""
        moments = [
            each for state in self.optimizer.state.values() for each in state.values() if isinstance(each, Tensor)
        ]
        return sum(shard.local(each).nbytes for each in (*self.net.parameters(), *self.net.parameters(), *moments))


@dataclass
class Kept:
    """Bytes that autograd holds for a backward pass."""

    num_bytes: int = 0


@contextmanager
def kept(net: torch.nn.Module) -> Iterator[Kept]:
    """Count what is saved for the backward pass, but for a network's weights."""
    own = {weight.untyped_storage().data_ptr() for weight in net.parameters()}
    found, storages = Kept(), {}

    def look(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        yield found
    found.num_bytes = sum(storage.nbytes() for storage in storages.values())


def stage_1(**changes: bool) -> TrainRecipe:
    """Return stage 1 at tiny size that draws nothing, in float32, with changes."""
    recipe = train_recipe("sft_tiny")
    return replace(recipe, stage=SftConfig(drop_both=0, drop_text=0), **changes)  # type: ignore[arg-type]


def alternating(works: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return seconds of each work, repeat by repeat, after one warm-up."""
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            begun = time.perf_counter()
            for _ in range(STEPS_PER_REPEAT):
                work()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def steps() -> Lines:
    """Steps with and without recomputing and compiling, against a plain one."""
    recomputed, compiled = {"checkpoint_activations": True}, {"compile": True}
    kinds = {"plain": {}, "recomputed": recomputed, "compiled": compiled, "both": recomputed | compiled}
    trainees = {name: Trainee(stage_1(**changes)) for name, changes in kinds.items()}
    sample = invented(stage_1())
    seconds = alternating({name: partial(each.step, [sample]) for name, each in trainees.items()})
    held: dict[str, int] = {}
    losses: dict[str, float] = {}
    for name, each in trainees.items():
        each.net.load_state_dict(trainees["plain"].net.state_dict())
        with kept(each.net) as counted:
            losses[name] = float(each.loss(sample).detach())
        held[name] = counted.num_bytes
    return [
        {
            "blocks": name,
            "time of a step / plain": statistics.median(
                own / plain for own, plain in zip(seconds[name], seconds["plain"], strict=True)
            ),
            "kept for the backward pass / plain": held[name] / held["plain"],
            "kept, MB": held[name] / MEGABYTE,
            "difference of the loss": abs(losses[name] - losses["plain"]),
        }
        for name in kinds
    ]


def through_everything(net: Velocity, encoders: Encoders, sample: Sample, recipe: TrainRecipe, k: int) -> Tensor:
    """Roll out k chunks as `rollout.roll` does, to the last step, and keep all of it for a backward pass.

    Colours are left alone, here and there: correcting them has no backward pass.
    """
    model = recipe.model
    sigmas, known = flow.noise_levels(model.sampler), given(sample, CPU, torch.float32)
    shape, num_frames = sample.reference_CThw.shape, model.stream.motion_frames
    motion_CThw = sample.reference_CThw[:, :1]
    for chunk in range(k):
        heard_PFWLC = windows(sample, chunk, recipe)
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(9 * chunk + n)) for n in range(5)]
        x_CThw = flow.sample(
            lambda x, step, heard=heard_PFWLC: known.ask(net, x, sigmas[step], heard),  # type: ignore[misc]
            drawn, motion_CThw, sigmas,
        )  # fmt: skip
        if chunk < k - 1:
            video = list(encoders.vae.decode_groups(x_CThw[None], model.compute.decode_groups))
            motion_CThw = encoders.vae.encode(torch.cat(video, dim=2)[:, :, -num_frames:])[0]
    return x_CThw


def roll_outs() -> Lines:
    """What a roll-out keeps: of the exit step alone, against all chunks and steps."""
    recipe = replace(train_recipe("distill_tiny"), stage=DistillConfig(correct_color=False))
    net, encoders = Trainee(recipe).net, build_encoders(recipe.model, random_seed=0)
    sample, lines = invented(recipe), Lines()
    shape, last = sample.reference_CThw.shape, recipe.model.sampler.num_steps

    def noise(number: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(number))

    for k in CHUNKS:
        with kept(net) as truncated:
            one = rollout.roll(net, encoders, sample, recipe, k, last, noise, grad=True)
        with kept(net) as full:
            whole = through_everything(net, encoders, sample, recipe, k)
        assert one.predicted_CThw.requires_grad
        assert whole.requires_grad
        lines.append(
            {
                "chunks": k,
                "truncated, MB": truncated.num_bytes / MEGABYTE,
                "through everything, MB": full.num_bytes / MEGABYTE,
                "through everything / truncated": full.num_bytes / truncated.num_bytes,
            }
        )
    return lines


def member(rank: int, size: int) -> dict[str, float]:
    """Take steps as one of several processes; return seconds per step and bytes held."""
    trainee = Trainee(stage_1(), shard.connect(CPU) if size > 1 else None)
    own = [invented(trainee.recipe, number) for number in range(rank, CLIPS, size)]
    trainee.step(own)
    seconds = []
    for _ in range(REPEATS):
        if size > 1:
            dist.barrier()
        begun = time.perf_counter()
        for _ in range(STEPS_PER_REPEAT):
            trainee.step(own)
        seconds.append((time.perf_counter() - begun) / STEPS_PER_REPEAT)
    return {"seconds": statistics.median(seconds), "held": float(trainee.held_bytes())}


def processes(folder: Path) -> Lines:
    """A step of four clips on two sharded processes, against one that is not."""
    found = {}
    for size in (1, 2):
        (folder / str(size)).mkdir()
        found[size] = run(member, size, folder / str(size), timeout_seconds=600)
    seconds = {size: max(each["seconds"] for each in ranks) for size, ranks in found.items()}
    held = {size: max(each["held"] for each in ranks) for size, ranks in found.items()}
    return [
        {
            "what": "two processes / one; 0.5 is perfect",
            "time of a step": seconds[2] / seconds[1],
            "weights, gradients, moments of a process": held[2] / held[1],
        }
    ]


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    console = Console(width=110)
    results: dict[str, object] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "provenance": describe()}
    with tempfile.TemporaryDirectory() as name:
        for title, part in (
            ("A step of stage 1", steps),
            ("Kept for the backward pass of a roll-out of stage 2", roll_outs),
            ("FSDP on gloo", lambda: processes(Path(name))),
        ):
            results[title] = part()
            show(title, results[title], console)  # type: ignore[arg-type]
    save(results, "train-", console)


if __name__ == "__main__":
    main()
