"""What a training run starts from: encoded clips, networks with weights, and the stage that they go into.

Everything that can be known to fail is refused here, before networks are made: other encoders, too short clips, clips
that the processes cannot share, no run of stage 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from talkbench.errors import TalkbenchError
from talkbench.ids import digest, sha256_file

from .. import PACKAGE, checkpoint, initial
from ..data import identity
from ..data.dataset import Dataset
from ..dit import DiT
from ..parallel import shard
from ..pipeline import build_codec
from . import checkpoints
from .conditions import Velocity
from .config import DistillConfig, SftConfig, TrainRecipe
from .stages import Distill, Place, Sft, Stage


@dataclass(frozen=True)
class Job:
    """What to train and where everything is.

    Attributes:
        recipe: The run.
        data: Folder of encoded clips.
        out: Folder of the run.
        held_out: Clips to look at before every checkpoint, of stage 1.
        init: Run, checkpoint or exported weights whose generator is started from.
        weights_dir: Released weights: of the encoders, and of the network if there is no `init`.
        device: ``cpu`` or ``cuda``.
    """

    recipe: TrainRecipe
    data: Path
    out: Path
    held_out: Path | None = None
    init: Path | None = None
    weights_dir: Path | None = None
    device: str = "cpu"


def refuse_what_cannot_run(job: Job, num_processes: int) -> None:
    """Stop before anything is read.

    Raises:
        TalkbenchError: If the processes cannot share a step's clips, stage 2 has nothing to start from, or it is asked
            for a loss that it does not have.
    """
    name, stage = job.recipe.name, job.recipe.stage
    if stage.batch % num_processes:
        raise TalkbenchError(
            f"{name} takes {stage.batch} clips per step, which {num_processes} processes cannot share evenly. "
            "Start a number that divides it, or change it: --set stage.batch=N."
        )
    if isinstance(stage, DistillConfig) and job.init is None:
        raise TalkbenchError(f"{name} starts from a run of stage 1: name it with --init RUN. {_first_stage(job)}")
    if isinstance(stage, DistillConfig) and job.held_out is not None:
        raise TalkbenchError(f"--held-out is looked at in stage 1: {name} has no loss that says how good it is.")
    if job.init is not None and not (_is_run(job.init) or _exported(job.init).is_dir()):
        raise TalkbenchError(f"{job.init} holds no checkpoint and no weights to start from. {_first_stage(job)}")


def clips(folder: Path, job: Job) -> Dataset:
    """Return encoded clips.

    Raises:
        TalkbenchError: If other encoders made them than those of the recipe, or they are shorter than its roll-outs.
    """
    dataset = Dataset(folder)
    recipe, header = job.recipe, dataset.header
    ours, theirs = identity.of_encoders(recipe.model, job.weights_dir), header.encoders
    if differing := sorted(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)):
        raise TalkbenchError(
            f"{folder} was encoded otherwise than {recipe.name} expects: {', '.join(differing)} differ. "
            f"Prepare it again: `{header.command} --out FOLDER`."
        )
    if header.chunks < (needed := _chunks(recipe)):
        raise TalkbenchError(
            f"clips in {folder} cover {header.chunks} chunks, and {recipe.name} rolls out {needed}. "
            f"Prepare it again, with --chunks {needed} in `{header.command} --out FOLDER`."
        )
    return dataset


def _chunks(recipe: TrainRecipe) -> int:
    """Return how many chunks a clip has to cover."""
    stage = recipe.stage
    if isinstance(stage, SftConfig):
        return 1
    return stage.max_chunks if stage.chunks == "random" else stage.chunks


def begin(job: Job, dataset: Dataset, place: Place) -> Stage:
    """Return the stage of a recipe, with networks to start from.

    Raises:
        PrerequisiteError: If weights are absent.
        TalkbenchError: If weights are of another network.
    """
    recipe = job.recipe
    generator = _network(job, place, trained=True)
    if isinstance(recipe.stage, SftConfig):
        return Sft(generator, recipe, dataset, place)
    fake, real = _network(job, place, trained=True), _network(job, place, trained=False)
    codec = build_codec(recipe.model, job.weights_dir, device=place.device)
    return Distill(generator, fake, real, codec, recipe, dataset, place)


def position(job: Job, dataset: Dataset) -> dict[str, Any]:
    """Return what a checkpoint says that its run was begun with, beyond the recipe; the step says the rest."""
    told = {"data": digest([dataset.header.clips, dataset.header.encoders, dataset.header.chunks])}
    if isinstance(job.recipe.stage, SftConfig) or job.init is None:
        return told
    return told | {"init": _digest(job.init)}


def refuse_another_beginning(job: Job, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Stop a resumed run whose clips, or whose teacher, are not those that it was begun with.

    Raises:
        TalkbenchError: Naming the option.
    """
    for name, value in there.items():
        if here.get(name) != value:
            raise TalkbenchError(
                f"{job.out} was begun with another --{name} than {getattr(job, name)}, or that has changed since. "
                f"Name the one it was begun with, or begin anew with another --out."
            )


def _network(job: Job, place: Place, *, trained: bool) -> Velocity:
    """Return a network with the weights of a run, of the released files, or random ones, in that order."""
    recipe = job.recipe
    make = partial(DiT, recipe.model.dit)
    mesh = shard.connect(place.device)
    if job.init is None and job.weights_dir is None and recipe.model.weights_seed is not None:
        net = Velocity(initial.made(make, recipe.model.weights_seed, place.device, getattr(torch, recipe.precision)))
        return shard.distribute(net, recipe, mesh, place.device, trained=trained)
    with torch.device("meta"):
        net = Velocity(make())
    net = shard.distribute(net, recipe, mesh, place.device, trained=trained)
    if job.init is None:
        shard.load_released(net, checkpoint.locate(job.weights_dir).model)
    elif _is_run(job.init):
        checkpoints.load_weights(job.init, net, recipe, "generator")
    else:
        shard.load_released(net, _exported(job.init))
    return net


def _is_run(folder: Path) -> bool:
    return (folder / checkpoints.LATEST).is_file() or (folder / checkpoints.STATE).is_file()


def _exported(folder: Path) -> Path:
    return checkpoint.Files.below(folder).model


def _digest(init: Path) -> str:
    """Return what changes with the weights of a run, a checkpoint or a folder of released files."""
    if _is_run(init):
        return sha256_file(checkpoints.find(init) / checkpoints.STATE)  # holds the digests of its files
    paths = sorted(_exported(init).glob("*.safetensors"))
    return digest({path.name: sha256_file(path) for path in paths})


def _first_stage(job: Job) -> str:
    name = job.recipe.name.replace("distill", "sft")
    return f"Stage 1 makes a run: `python -m {PACKAGE}.train --recipe {name} --data {job.data} --out runs/{name}`."
