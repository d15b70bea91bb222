"""The model as a system under test: `python shim.py -m talkbench_model.worker --recipe tiny`.

Speaks the worker protocol through `talkbench/workers/shim.py`, which starts this module and lends it `serve`. Under
torchrun the first process speaks; the others hear each job from it and compute their share.

Legend: F frames, H W pixels, C channels, N samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist
from PIL import Image

from talkbench.errors import TalkbenchError
from talkbench.media import audio
from talkbench.media.encode import ClipWriter
from talkbench.provenance import device_name, package_versions

from .live import Background, Frames, Samples
from .parallel.mesh import launched, local_device
from .pipeline import Model, build
from .recipes import RECIPES, recipe, spread
from .stream import Piece, Stream

if TYPE_CHECKING:
    from talkbench_shim import Job, Report  # type: ignore[import-not-found]

PACKAGES = ("talkbench", "torch", "transformers", "numpy", "av")
_BETWEEN_JOBS = timedelta(days=7)
"""How long other processes wait for a job; the host may be busy with anything."""


def main() -> None:
    """Load the model and make clips until the host says bye."""
    from talkbench_shim import serve

    options = _arguments()
    wanted = spread(recipe(options.recipe), launched() or 1)
    model = build(wanted, options.weights_dir, device=local_device(options.device))
    others = _Others() if wanted.parallel.num_processes > 1 else None
    if others is not None and dist.get_rank():
        others.follow(lambda job: make_clip(model, job, None))
        return

    def make(job: Job, report: Report) -> dict[str, Any]:
        if others is not None:
            others.tell(job)
        return make_clip(model, job, report)

    serve(
        make,
        name=wanted.name,
        device=device_name(str(model.device)),
        num_devices=wanted.parallel.num_processes,
        versions=package_versions(PACKAGES),
        details={"weights": model.weights, "dtype": wanted.compute.dtype, "attention": model.dit.kernel.name},
        survives_errors=others is None,
    )
    if others is not None:
        others.tell(None)


def make_clip(model: Model, job: Job, report: Report | None) -> dict[str, Any]:
    """Make the clip of a job; a process without a `report` computes its share and writes nothing.

    Raises:
        TalkbenchError: If the sound is empty.
    """
    audio_N = np.concatenate(
        [np.zeros(0, np.float32), *audio.blocks(Path(job.audio), model.recipe.stream.audio_rate_hz)]
    )
    if not audio_N.size:
        raise TalkbenchError(f"{job.audio} holds no sound: there is nothing to say.")
    with Image.open(job.image) as picture:
        stream = Stream(model, picture.convert("RGB"), prompt=job.prompt, seed=job.seed)
    if report is None:
        for _ in stream.play([audio_N]):
            pass
    else:
        report.mark("cond_end")
        _write(stream, audio_N, Path(job.output), report)
    return {"prompt": stream.prompt, "seed": stream.seed, "size": f"{stream.config.width}x{stream.config.height}"}


def _write(stream: Stream, audio_N: Samples, path: Path, report: Report) -> None:
    """Write the clip while it is made: frames are awaited on one thread and encoded on another."""
    config = stream.config
    with ClipWriter(
        path,
        width=config.width,
        height=config.height,
        frame_rate=config.frame_rate,
        audio_N=audio_N,
        audio_rate_hz=config.audio_rate_hz,
    ) as writer:

        def encode(frames_FHWC: Frames) -> None:
            for frame_HWC in frames_FHWC:
                writer.write(frame_HWC)

        with Background(encode) as encoder:
            with Background(_arrival(encoder, report)) as arrive:
                for piece in stream.play([audio_N]):
                    arrive(piece)
            report.mark("gen_end")


def _arrival(encoder: Background[Frames], report: Report) -> Callable[[Piece], None]:
    """Return what waits for a piece to be on the host, reports it, and passes it on."""
    pending = 0

    def arrive(piece: Piece) -> None:
        nonlocal pending
        frames_FHWC = piece.frames_FHWC
        if piece.first_frame == 0:
            report.first_frame()
        pending += len(frames_FHWC)
        if piece.last_of_chunk:
            report.frames(pending)
            pending = 0
        encoder(frames_FHWC)

    return arrive


class _Others:
    """The other processes of a parallel run, over a group that may be silent for long."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo", timeout=_BETWEEN_JOBS)

    def tell(self, job: Job | None) -> None:
        """Hand the others a job, or the end."""
        dist.broadcast_object_list([None if job is None else job.message], src=0, group=self._group)

    def follow(self, work: Callable[[Job], object]) -> None:
        """Do what the first process tells, until the end."""
        from talkbench_shim import Job

        while True:
            told: list[Any] = [None]
            dist.broadcast_object_list(told, src=0, group=self._group)
            if told[0] is None:
                return
            work(Job(told[0]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="talkbench_model.worker")
    parser.add_argument("--recipe", required=True, choices=RECIPES)
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
