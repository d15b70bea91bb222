"""One picture and speech in, a talking avatar out.

    python -m model.infer --recipe tiny --image face.png --audio speech.wav --out talk.mp4          # a CPU, seconds
    python -m model.infer --recipe flashtalk_14b --weights-dir weights --image ... --audio ... --out ...
    torchrun --nproc-per-node 8 -m model.infer --recipe flashtalk_14b_8gpu ...         # the GPUs of a node
    cat speech.pcm | python -m model.infer --recipe tiny --image face.png --audio - --out - | ffplay -

With `--audio -` raw 16-bit mono samples at 16 kHz are read as they arrive, with `--out -` an MPEG transport stream is
written chunk by chunk. Installed, the module is `talkbench_model.infer`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from PIL import Image, ImageOps
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.media import audio as sound

from .command import console, run, shown
from .config import Recipe
from .live import Background, LiveWriter, Samples
from .parallel.mesh import is_first, launched, local_device
from .pipeline import build
from .recipes import RECIPES, recipe, spread
from .stream import Piece, Stream

STDIN = STDOUT = "-"
_BLOCK_BYTES = 2 * 1600
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass
class Outcome:
    """What was delivered, and how fast."""

    num_frames: int = 0
    chunk_done: list[float] = field(default_factory=list)
    first_frame_seconds: float | None = None

    def facts(self, frame_rate: float, new_frames: int) -> dict[str, Any]:
        """Return the numbers that are printed."""
        gaps = np.diff(self.chunk_done)
        steady = float(np.median(gaps)) if gaps.size else None
        return {
            "frames": self.num_frames,
            "seconds": self.num_frames / frame_rate,
            "chunks": len(self.chunk_done),
            "first_frame_seconds": self.first_frame_seconds,
            "chunk_seconds": steady,
            "fps": None if steady is None else new_frames / steady,
        }


@app.command(help=shown(__doc__))
def infer(
    recipe_name: Annotated[str, typer.Option("--recipe", help=f"One of: {', '.join(RECIPES)}.")],
    image: Annotated[Path, typer.Option(help="Reference picture; cropped to the recipe's shape.")],
    audio: Annotated[
        str, typer.Option(help="Sound or video file, or - for raw 16-bit mono 16 kHz samples from stdin.")
    ],
    out: Annotated[str, typer.Option(help="mp4 file, or - for an MPEG transport stream on stdout.")],
    weights_dir: Annotated[
        Path | None, typer.Option(help="Folder with the released checkpoints' folders; `tiny` needs none.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Seeded random weights: measures speed, shows nothing.")
    ] = False,
    prompt: Annotated[str | None, typer.Option(help="Text; the recipe's by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise; the recipe's by default.")] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH in pixels, multiples of 16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    attention: Annotated[
        str, typer.Option(help="auto, or the kernel to insist on: fa3, fa2, cudnn, flash, math.")
    ] = "auto",
    vae: Annotated[
        Literal["exact", "tiled", "off"],
        typer.Option(help="Autoencoder on several GPUs: split exactly, in the report's tiles, or done whole by each."),
    ] = "exact",
    released_behaviour: Annotated[
        bool,
        typer.Option("--released-behaviour", help="Lose the frames and the precision that the released code loses."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON on stderr.")] = False,
) -> None:
    """Make a talking avatar of a picture and speech, frame by frame, for as long as there is sound."""
    wanted = _configured(recipe_name, size, attention, vae)
    if audio == STDIN and wanted.parallel.num_processes > 1:
        raise TalkbenchError("--audio - works with one process; give several a file.")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if wanted.parallel.num_processes > 1:
        where = local_device(where.type)
    picture = _opened(image)
    blocks = _from_stdin() if audio == STDIN else _from_file(Path(audio), wanted.stream.audio_rate_hz)
    started = time.perf_counter()
    model = build(wanted, weights_dir, device=where, random_seed=0 if random_weights else None)
    if model.weights.startswith("random"):
        console.print(f"{model.weights} weights: the picture means nothing, only its making does", style="yellow")
    stream = Stream(model, picture, prompt=prompt, seed=seed, released_behaviour=released_behaviour)
    loaded = time.perf_counter()
    outcome = _run(stream, blocks, None if out == STDOUT else Path(out), quiet=not is_first())
    if is_first():
        facts = outcome.facts(float(wanted.stream.frame_rate), wanted.stream.new_frames)
        _show({"recipe": wanted.name, "weights": model.weights, "device": str(where), "out": out,
               "load_seconds": loaded - started, **facts}, as_json)  # fmt: skip


def _configured(name: str, size: str | None, attention: str, vae: Literal["exact", "tiled", "off"]) -> Recipe:
    try:
        wanted = recipe(name)
        if size is not None:
            match = re.fullmatch(r"(\d+)x(\d+)", size)
            if match is None:
                raise TalkbenchError(f"--size {size!r}: expected HEIGHTxWIDTH, such as 720x416.")
            wanted = replace(wanted, stream=replace(wanted.stream, height=int(match[1]), width=int(match[2])))
        if (num_processes := launched()) is not None:
            wanted = spread(wanted, num_processes)
        compute = replace(wanted.compute, attention=attention)
        return replace(wanted, compute=compute, parallel=replace(wanted.parallel, vae=vae))
    except ValueError as error:
        raise TalkbenchError(str(error)) from error


def _opened(path: Path) -> Image.Image:
    try:
        picture = ImageOps.exif_transpose(Image.open(path))
    except (OSError, Image.DecompressionBombError) as error:
        raise TalkbenchError(f"{path} cannot be read as a picture: {error}. Give a PNG or JPEG file.") from error
    return picture


def _from_file(path: Path, rate_hz: int) -> Iterator[Samples]:
    try:
        yield from sound.blocks(path, rate_hz)
    except Unscorable as error:
        raise TalkbenchError(f"{path}: {error.message}. Give a file with a sound track.") from error


def _from_stdin() -> Iterator[Samples]:
    odd = b""
    pipe = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    while block := pipe.read1(_BLOCK_BYTES):
        if block[:4] in {b"RIFF", b"fLaC", b"OggS"}:
            raise TalkbenchError(
                "--audio - takes raw samples, this is a file with a header. Unpack it: "
                "`ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | ...`"
            )
        block = odd + block
        odd = block[len(block) // 2 * 2 :]
        yield np.frombuffer(block[: len(block) // 2 * 2], "<i2").astype(np.float32) / np.float32(32768)


def _run(stream: Stream, blocks: Iterator[Samples], target: Path | None, *, quiet: bool) -> Outcome:
    """Push sound and write what comes of it; every process of a parallel run computes, one writes."""
    if quiet:
        for _ in stream.play(blocks):
            pass
        return Outcome()
    config, outcome = stream.config, Outcome()
    writer = LiveWriter(
        target, height=config.height, width=config.width, frame_rate=config.frame_rate,
        audio_rate_hz=config.audio_rate_hz, fragment_frames=config.new_frames,
    )  # fmt: skip
    heard = _Heard(config.samples_per_frame)
    started = time.perf_counter()

    def write(piece: Piece, samples_N: Samples) -> None:
        frames_FHWC = piece.frames_FHWC
        now = time.perf_counter()
        outcome.first_frame_seconds = outcome.first_frame_seconds or now - started
        writer.write(frames_FHWC, samples_N)
        outcome.num_frames += len(frames_FHWC)
        if piece.last_of_chunk:
            outcome.chunk_done.append(now)

    try:
        with _bar() as bar, Background(write) as background:
            task = bar.add_task("frames", total=None)
            for piece in stream.play(heard.noting(blocks)):
                background(piece, heard.take(piece.num_frames))
                bar.update(task, completed=piece.first_frame + piece.num_frames, total=stream.num_frames)
    except BaseException:
        writer.abandon()
        if writer.partial is not None and outcome.num_frames:
            console.print(f"stopped; {outcome.num_frames} finished frames are in {writer.partial}")
        raise
    if not outcome.num_frames:
        writer.abandon()
        if writer.partial is not None:
            writer.partial.unlink(missing_ok=True)
        raise TalkbenchError("the sound is empty: there is nothing to say. Give a file with samples.")
    writer.close()
    return outcome


class _Heard:
    """Sound that is not written yet."""

    def __init__(self, samples_per_frame: int) -> None:
        self._per_frame = samples_per_frame
        self._samples_N = np.zeros(0, np.float32)

    def noting(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block_N in blocks:
            self._samples_N = np.concatenate((self._samples_N, block_N))
            yield block_N

    def take(self, num_frames: int) -> Samples:
        count = num_frames * self._per_frame
        taken_N, self._samples_N = self._samples_N[:count], self._samples_N[count:]
        return taken_N


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stderr.write(json.dumps(facts) + "\n")
        return
    speed = "" if facts["fps"] is None else f", {facts['fps']:.1f} frames per second in the steady state"
    console.print(
        f"{facts['out']}: {facts['frames']} frames ({facts['seconds']:.2f} s) in {facts['chunks']} chunks; "
        f"first frame after {facts['first_frame_seconds']:.2f} s{speed}"
    )


def main() -> None:
    """Run the command line."""
    import logging

    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    run(app)


if __name__ == "__main__":
    main()
