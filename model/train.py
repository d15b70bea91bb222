"""Training, both stages; a run that was stopped goes on when the same command is given again.

    python -m model.train --recipe sft_tiny                         # a CPU: clips are drawn the first time
    python -m model.train --recipe distill_tiny                     # goes on from runs/sft_tiny
    python -m model.train --recipe sft_tiny --data data/tiny --held-out data/tiny-held-out --out runs/sft
    torchrun --nproc-per-node 8 -m model.train --recipe sft_14b --device cuda --data latents --weights-dir weights
    torchrun --nproc-per-node 8 -m model.train --recipe distill_14b --device cuda --data latents --weights-dir weights
    python -m model.train --recipe distill_14b --gpus 32 --gpu-gigabytes 96 --dry-run

RUN/metrics.jsonl holds what every step told (RUN/tensorboard too, if it is installed), RUN/step-N what a run needs to
go on, on any number of processes, and RUN/export the generator in the released format, which `--weights-dir` of every
other command takes. model/README.md says what the report leaves open and what was chosen.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.distributed as dist
import typer
from safetensors import SafetensorError

from talkbench import atomic
from talkbench.errors import Interrupted, PrerequisiteError, TalkbenchError
from talkbench.provenance import device_name, gpus

from . import PACKAGE, checkpoint, initial
from . import memory as serving
from .command import console, run, shown
from .data import prepare, shards
from .data.dataset import Dataset
from .parallel import shard
from .parallel.mesh import is_first, launched, launched_here, local_device, on_first
from .tiny import world as drawn_world
from .training import checkpoints, memory, sft, starting
from .training.checkpoints import TrainState
from .training.conditions import Velocity
from .training.config import DistillConfig, TrainRecipe
from .training.draws import Draws
from .training.ema import Ema
from .training.recipes import RECIPES, changed, train_recipe
from .training.stages import Place, Stage
from .training.starting import Job
from .training.watch import Watch

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
HELD_OUT_DRAWS = 4
"""Times at which every held-out clip is looked at."""
RUNS, EXPORT, LOCK = Path("runs"), "export", ".lock"
DRAWN = Path("data/tiny")
"""Where clips of the tiny world are, unless `--data` says so."""


def train(job: Job) -> Path:
    """Run, or go on with, a training run; return the folder of the exported generator.

    Raises:
        PrerequisiteError: If memory or weights are missing, or the folder cannot be written.
        TalkbenchError: If the data are of other encoders, a checkpoint is of another recipe, what the run was begun
            with is not what is given now, or another training is at work in the folder.
        TrainingStopped: If a number is not finite or a loss leaves its range.
    """
    recipe, device = job.recipe, local_device(job.device)
    starting.refuse_what_cannot_run(job, launched() or 1)
    if device.type == "cpu":
        torch.set_num_threads(1)  # the same numbers on any machine; more cores are more processes
    mesh = shard.connect(device)
    _refuse_too_big(recipe, device)
    dataset = starting.clips(job.data, job)
    held_out = starting.clips(job.held_out, job) if job.held_out is not None else None
    world = dist.get_world_size() if mesh is not None else 1
    place = Place(dist.get_rank() if mesh is not None else 0, world, device)
    stage = starting.begin(job, dataset, place)
    averages = {"generator": Ema(stage.nets["generator"], recipe.ema_decay)} if recipe.ema_decay is not None else {}
    state = TrainState(recipe, stage.nets, stage.optimizers, averages, starting.position(job, dataset))
    with ExitStack() as until_done:
        on_first(lambda: _keep_others_out(job.out, until_done))
        first = _resumed(job, state)
        watch = Watch(
            job.out,
            recipe,
            num_processes=world,
            device_name=device_name(str(device)),
            first_step=first,
            limits=stage.limits,
        )
        until_done.callback(watch.close)
        for step in range(first, recipe.stage.steps):
            done = stage.step(step, watch)
            for name in averages.keys() & done.updated:
                averages[name].update(stage.nets[name])
            last = step + 1 == recipe.stage.steps
            saved = last or (step + 1) % recipe.save_every == 0
            told = done.told | (_held_out(stage, held_out, recipe, device) if saved and held_out is not None else {})
            line = watch.step(step, told, clips=recipe.stage.batch, passes=done.passes)
            if place.rank == 0:
                console.print(line, soft_wrap=True)
            if saved:
                checkpoints.save(job.out, state, step + 1, recipe.keep_last)
        with averages["generator"].applied(stage.nets["generator"]) if averages else nullcontext():
            return _export(stage.nets["generator"], job)


def _refuse_too_big(recipe: TrainRecipe, device: torch.device) -> None:
    """Say what memory a run needs, and stop if it is not there; of toy recipes nothing is said.

    Raises:
        PrerequisiteError: If a GPU, or this machine, has less.
    """
    toy, on_gpu = recipe.model.weights_seed is not None, device.type == "cuda"
    if toy and not on_gpu:
        return
    free, here = serving.free_host_bytes(), launched_here()
    each = torch.cuda.mem_get_info(device)[0] if on_gpu else free / here
    found = memory.estimate(recipe, launched() or 1, each / memory.GIGABYTE)
    if not toy and is_first():
        in_host = f"of this machine's memory, about {found.in_host_memory(here, cuda=on_gpu) / memory.GIGABYTE:.0f} GB"
        console.print(found.describe() if on_gpu else f"{recipe.name}: {in_host} (estimate)", soft_wrap=True)
    if on_gpu:
        found.refuse_if_too_big()
    found.refuse_if_host_too_small(free, here, cuda=on_gpu)


def _keep_others_out(folder: Path, until_done: ExitStack) -> None:
    """Lock a run's folder: two runs in it would remove each other's files.

    Raises:
        TalkbenchError: If another process has it.
    """
    if not until_done.enter_context(atomic.lock(folder / LOCK, wait=False)):
        raise TalkbenchError(f"another training is at work in {folder}. Wait for it, stop it, or choose another --out.")


def _resumed(job: Job, state: TrainState) -> int:
    """Fill the state from the run's last checkpoint, if there is one; return the steps done."""
    if not (job.out / checkpoints.LATEST).is_file():
        return 0
    here = state.position
    first = checkpoints.load(job.out, state)
    starting.refuse_another_beginning(job, state.position, here)
    state.position = here
    return first


@torch.no_grad()
def _held_out(stage: Stage, dataset: Dataset, recipe: TrainRecipe, device: torch.device) -> dict[str, float]:
    """Return stage 1's loss on clips that are not learnt from, always at the same times and with the same noise."""
    net, recipe = stage.nets["generator"], replace(recipe, seed=0)
    null_text_LC = dataset.null_text_LC.to(device)
    losses = [
        float(sft.loss(net, dataset.sample(index), recipe, Draws(0, draw, 0), draw, null_text_LC).loss)
        for index in range(len(dataset))
        for draw in range(HELD_OUT_DRAWS)
    ]
    return {"held_out_loss": sum(losses) / len(losses)}


def _export(net: Velocity, job: Job) -> Path:
    """Write the generator as the released one is, with the other networks beside it: links, or random ones anew.

    Raises:
        PrerequisiteError: If it cannot be written (a full disk); an export that was there stays.
    """
    folder, partial = job.out / EXPORT, job.out / f"{EXPORT}.partial"
    dtype = torch.bfloat16 if job.recipe.precision == "bfloat16" else torch.float16
    try:
        on_first(lambda: _begin_export(job, partial))
        checkpoint.write_dit(net.dit, checkpoint.Files.below(partial).model, dtype)
        if is_first():
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise PrerequisiteError(
            f"the generator could not be exported to {folder}: {error}. Free space there; the same command exports "
            "again, and trains no further."
        ) from error
    return folder


def _begin_export(job: Job, folder: Path) -> None:
    """Put everything but the generator into a new folder."""
    if folder.exists():
        shutil.rmtree(folder)
    model = job.recipe.model
    source = checkpoint.source(model, job.weights_dir)
    if source is not None:
        _link(source, folder)
    elif model.weights_seed is not None:
        initial.write(model, folder, model.weights_seed)  # its transformer is replaced by the generator


def _link(source: Path, folder: Path) -> None:
    """Have a folder of weights show the autoencoder and the encoders of another."""
    given = checkpoint.Files.below(source)
    for path in (given.vae, given.text, given.image, given.tokenizer, given.speech):
        link = folder / path.relative_to(source)
        if path.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())


@app.command(help=shown(__doc__))
def command(
    recipe_name: Annotated[str, typer.Option("--recipe", help=f"One of: {', '.join(RECIPES)}.")],
    data: Annotated[
        Path | None, typer.Option(help=f"Folder of `python -m {PACKAGE}.data.prepare`; by default, for tiny, {DRAWN}.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default runs/RECIPE.")] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Run, checkpoint or exported weights to start from; stage 2 by default from runs/sft_tiny or "
            "runs/sft_14b; sft_tiny's comes along if there is no run."
        ),
    ] = None,
    held_out: Annotated[Path | None, typer.Option(help="Stage 1: clips whose loss every checkpoint tells.")] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="Folder with the released checkpoints' folders.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where it runs.")] = "cpu",
    steps: Annotated[int | None, typer.Option(min=1, help="Of the run; by default the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything that is drawn.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A field of the recipe: stage.chunks=3, stage.generator.rate=1e-5, offload=true.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--gpus", min=1, help="For --dry-run: GPUs.")] = 8,
    gigabytes: Annotated[float, typer.Option("--gpu-gigabytes", help="For --dry-run: memory of each.")] = 80.0,
    dry_run: Annotated[bool, typer.Option(help="Print the recipe and what memory it needs; load nothing.")] = False,
) -> None:
    """Train, or go on training."""
    recipe = _recipe(recipe_name, changes or (), steps, seed)
    if dry_run:
        console.print(memory.estimate(recipe, count, gigabytes).describe(), soft_wrap=True)
        sys.stdout.write(json.dumps(checkpoints.described(recipe), indent=1) + "\n")
        return
    if device == "cuda" and not gpus():
        raise PrerequisiteError("no NVIDIA GPU here: leave out --device, or see `--dry-run`.")
    out = out or RUNS / recipe.name
    job = Job(recipe, data or DRAWN, out, held_out, init or stage_1(recipe), weights_dir, device)
    starting.refuse_what_cannot_run(job, launched() or 1)
    if data is None:
        draw(recipe)
    try:
        exported = train(job)
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped. The same command goes on from the last checkpoint in {out}.") from error
    if is_first():
        tried = f"python -m {PACKAGE}.infer --recipe {recipe.model.name} --weights-dir {exported}"
        console.print(f"next: {tried} --image face.png --audio speech.wav --out talk.mp4", soft_wrap=True)


def draw(recipe: TrainRecipe) -> None:
    """Draw and encode clips of the tiny world, the first time.

    Raises:
        TalkbenchError: If the recipe is for others.
    """
    size = (recipe.model.stream.height, recipe.model.stream.width)
    if size != (drawn_world.SIDE, drawn_world.SIDE):
        raise TalkbenchError(
            f"{recipe.name} needs data: `python -m {PACKAGE}.data.prepare --help`, then --data FOLDER."
        )
    if (DRAWN / shards.INDEX).is_file():
        return
    command = ["--source", "tiny", "--recipe", recipe.model.name, "--out", str(DRAWN)]
    if launched() is not None:
        told = f"python -m {PACKAGE}.data.prepare {' '.join(command)}"
        raise TalkbenchError(f"there are no clips in {DRAWN}: draw them first, with `{told}`.")
    prepare.main(["--jobs", str(os.cpu_count() or 1), *command])


def stage_1(recipe: TrainRecipe) -> Path | None:
    """Return what stage 2 goes on from unless told: our own run, or the weights that come with the package, if any."""
    if not isinstance(recipe.stage, DistillConfig):
        return None
    folder = RUNS / recipe.name.replace("distill", "sft")
    if folder.is_dir():
        return folder
    shipped = recipe.model.shipped
    return None if shipped is None else checkpoint.shipped(f"{shipped}-stage1")


def _recipe(name: str, changes: Sequence[str], steps: int | None, seed: int | None) -> TrainRecipe:
    given = {"stage.steps": str(steps)} if steps is not None else {}
    given |= {"seed": str(seed)} if seed is not None else {}
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise TalkbenchError(f"--set {change}: expected FIELD=VALUE, such as stage.batch=8.")
        given[path] = text
    try:
        return changed(train_recipe(name), given)
    except ValueError as error:
        raise TalkbenchError(str(error)) from error


def main() -> None:
    """Run the command line; errors are one line."""
    run(app)


if __name__ == "__main__":
    main()
