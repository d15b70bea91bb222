"""Component times of a recipe: audio, each denoising step, decode, encode, colour, copy, and whatever is between them.

    python -m model.profile --recipe tiny --device cpu --processes 1,2 --out profile.jsonl
    python -m model.profile --recipe flashtalk_14b --device cuda --random-weights --emulate 2,4,8 --out -
    python -m model.profile --recipe flashtalk_14b --device H200 --processes 1,8 --dry-run --out -

One line of JSON per configuration, with every single duration; `talkbench profile` starts this and stores what it says.
Sections are timed by CUDA events on GPUs, a cycle by the clock from handing over a chunk's sound to its last frame on
the host and its motion latents. Several processes are started by torchrun. `--emulate` measures one rank of GPUs that
are not there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from talkbench.errors import PrerequisiteError, TalkbenchError

from . import PACKAGE, memory, predict
from .config import Recipe
from .recipes import recipe as recipe_named
from .recipes import spread

HOST = "-"
"""`--out` of a caller that reads stdout."""
ORPHAN_SECONDS = 0.5


def main() -> None:
    """Run the command line."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    arguments = _parser().parse_args()
    with _output(arguments.out) as out:
        try:
            for line in run(arguments):
                out.write(json.dumps(line, allow_nan=False) + "\n")
                out.flush()
        except TalkbenchError as error:
            sys.stderr.write(f"talkbench: {error}\n")
            if arguments.out == HOST:
                out.write(json.dumps({"error": str(error), "exit_code": error.exit_code}) + "\n")
            sys.exit(error.exit_code)


def run(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one object per configuration asked for.

    Raises:
        TalkbenchError: If recipe, device or a number of processes do not fit.
    """
    for compiled in {"on": (True,), "off": (False,), "both": (False, True)}[arguments.compile]:
        for processes in arguments.processes:
            recipe = configured(arguments.recipe, processes, compiled=compiled)
            if arguments.dry_run:
                yield estimate(recipe, arguments.device)
            elif processes > 1 and "WORLD_SIZE" not in os.environ:
                yield from _through_torchrun(arguments, processes, compiled=compiled)
            else:
                from .measure import measured

                yield from measured(recipe, arguments)


def configured(name: str, processes: int, *, compiled: bool) -> Recipe:
    """Return a recipe for so many processes.

    Raises:
        TalkbenchError: If there is no such recipe, or not that many processes can share it.
    """
    try:
        recipe = spread(recipe_named(name), processes)
        compute = replace(recipe.compute, compile=compiled, cuda_graph=compiled and recipe.compute.cuda_graph)
        return replace(recipe, compute=compute)
    except ValueError as error:
        raise TalkbenchError(str(error)) from error


def estimate(recipe: Recipe, device: str) -> dict[str, Any]:
    """Return what a recipe should need and take; nothing is loaded.

    Args:
        recipe: Its processes are GPUs.
        device: Name of a GPU with a data sheet, ``cuda`` for the one at hand, or ``cpu``.
    """
    on_gpu = device != "cpu"
    needed = memory.estimate(recipe, cuda=on_gpu)
    found: dict[str, Any] = facts(recipe) | {
        "device": device,
        "weights_bytes": needed.weights,
        "kept_bytes": needed.kept,
        "caches_bytes": needed.caches,
        "working_bytes": max(needed.transformer, needed.autoencoder),
        "needed_bytes": needed.needed,
    }
    if not on_gpu:
        return found | {"device_bytes": None, "shortage": None, "predicted": None}
    sheet = predict.device_named(_cuda_name() if device == "cuda" else device)
    seconds = predict.cycle(recipe, sheet, compiled=recipe.compute.compile)
    return found | {
        "device": sheet.name,
        "device_bytes": sheet.memory_bytes,
        "shortage": memory.shortage(recipe, sheet.memory_bytes),
        "predicted": seconds | {"fps": recipe.stream.new_frames / seconds["cycle"]},
    }


def facts(recipe: Recipe) -> dict[str, Any]:
    """Return what a record says about the configuration, ready for JSON."""
    return {
        "recipe": recipe.name,
        "num_processes": recipe.parallel.num_processes,
        "ulysses": recipe.parallel.ulysses,
        "ring": recipe.parallel.ring,
        "vae": recipe.parallel.vae,
        "compiled": recipe.compute.compile,
        "dtype": "float8" if recipe.compute.fp8 else recipe.compute.dtype,
        "height": recipe.stream.height,
        "width": recipe.stream.width,
        "frame_rate": str(recipe.stream.frame_rate),
        "chunk_frames": recipe.stream.new_frames,
        "num_steps": recipe.sampler.num_steps,
    }


def _cuda_name() -> str:
    from talkbench.provenance import gpus

    found = gpus()
    if not found:
        raise PrerequisiteError(
            f"no NVIDIA GPU here. Name one with a data sheet instead: --device {' or '.join(predict.DEVICES)}."
        )
    return found[0]


def _through_torchrun(arguments: argparse.Namespace, processes: int, *, compiled: bool) -> Iterator[dict[str, Any]]:
    """Measure one configuration in processes of their own; the first of them prints the line that is yielded."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", f"{__package__}.profile", "--recipe", arguments.recipe, "--device", arguments.device]
    command += ["--processes", str(processes), "--compile", "on" if compiled else "off", "--out", HOST]
    command += ["--warmup", str(arguments.warmup), "--chunks", str(arguments.chunks)]
    command += ["--seconds", str(arguments.seconds)]
    if arguments.weights_dir:
        command += ["--weights-dir", str(arguments.weights_dir)]
    if arguments.random_weights:
        command += ["--random-weights"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603
        assert child.stdout is not None  # noqa: S101 - piped above
        for line in child.stdout:
            found = json.loads(line)
            if "error" in found:
                raise TalkbenchError(found["error"])
            yield found
    if child.returncode:
        raise TalkbenchError(f"torchrun with {processes} processes left with exit code {child.returncode}.")


@contextmanager
def _output(path: str) -> Iterator[IO[str]]:
    """Yield where lines go. For a host, stdout carries nothing else, whatever the libraries print."""
    if path != HOST:
        with Path(path).open("a", encoding="utf-8") as file:
            yield file
        return
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as file:
        os.dup2(2, 1)
        yield file


def _end_with(parent: int) -> None:
    """Go when the host is gone, killed perhaps: whoever measures next must have the machine to himself."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_SECONDS)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {PACKAGE}.profile", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--recipe", required=True, help="name of a recipe: tiny, flashtalk_14b, ...")
    parser.add_argument(
        "--device", default="cpu", help=f"default: cpu; cuda; for --dry-run also {', '.join(predict.DEVICES)}"
    )
    parser.add_argument("--processes", type=_counts, default=(1,), help="one per GPU; several by commas")
    parser.add_argument("--emulate", type=_counts, default=(), help="counts of GPUs of which one rank is measured here")
    parser.add_argument("--compile", choices=("off", "on", "both"), default="off")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights-dir", type=Path, help="folder with the released repositories' folders")
    weights.add_argument("--random-weights", action="store_true", help="seeded random numbers: the same speed")
    parser.add_argument("--warmup", type=int, default=2, help="chunks left out")
    parser.add_argument("--chunks", type=int, default=20, help="chunks measured, at least")
    parser.add_argument("--seconds", type=float, default=3.0, help="that they cover, at least")
    parser.add_argument("--dry-run", action="store_true", help="say what it should need and take; load nothing")
    parser.add_argument("--out", required=True, help="file to append to, or - for stdout, ending with whoever reads it")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


if __name__ == "__main__":
    main()
