"""Clips of one system at one seed, and what the truth says of them; a child process of `ablation.py`.

    python -m model.tiny.trial --out runs/ablate --system k3 --seed 0 --weights-dir runs/ablate/cells/k3-seed0/export

OUT/clips/SYSTEM/ITEM.mp4        for `talkbench score`
OUT/measures/SYSTEM/ITEM.json    what only the truth can tell, of the frames before they were encoded as video
OUT/reader.safetensors           the mouth reader, trained by the first process that needs it; reader.json says how good

What is there and was made with the same weights stays.
Legend: T frames, H W pixels, C channels.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from talkbench import atomic
from talkbench.ids import sha256_file
from talkbench.media.encode import write_clip
from talkbench.mini.suite import FRAME_RATE
from talkbench.progress import Logged
from talkbench.schema import Sidecar, Truth

from .. import checkpoint
from ..live import Frames
from ..pipeline import Encoders, build, build_encoders
from ..recipes import tiny
from . import evaluate, reader, world
from .cast import Cast, Scene
from .children import leave_with_parent
from .world import Clip

CLIPS, MEASURES, DRAWN = "clips", "measures", "drawn"
FILM = "film"
"""The system that is the drawn people themselves, through the autoencoder: nothing can be better."""
ENDS_SECONDS = 2.0
"""Of the beginning and the end of a clip, for drift."""
READER, READER_FACTS = "reader.safetensors", "reader.json"
READER_CLIPS, READER_STEPS, READER_HELD_OUT = 96, 800, 12
FIRST_READER_TEST = world.FIRST_HELD_OUT_SEED + 1_000_000
"""Of the people on whom the reader is tested; in no scene."""

Player = Callable[[Clip, int], Frames]


def recoded(encoders: Encoders, frames_THWC: Frames) -> Frames:
    """Return frames after the autoencoder, piece by piece as a stream's chunks are, but without overlap."""
    length = encoders.recipe.stream.clip_frames
    pieces = []
    for start in range(0, len(frames_THWC), length):
        piece_THWC = frames_THWC[start : start + length]
        filled_THWC = np.concatenate([piece_THWC, np.repeat(piece_THWC[-1:], length - len(piece_THWC), axis=0)])
        video_CFHW = torch.from_numpy(filled_THWC).permute(3, 0, 1, 2).float() / 127.5 - 1
        made_CFHW = torch.cat(list(encoders.decode(encoders.encode(video_CFHW))), dim=1)
        levels_THWC = ((made_CFHW.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
        pieces.append(levels_THWC[: len(piece_THWC)])
    return np.concatenate(pieces)


def ready_reader(folder: Path, encoders: Encoders) -> reader.MouthReader:
    """Return the mouth reader of an ablation; train it on people to learn from if it is not there yet."""
    path = folder / READER
    with atomic.lock(folder / f".{READER}.lock", wait=True):
        if not path.is_file():
            seconds = float(encoders.recipe.stream.clip_frames / FRAME_RATE)

            progress = Logged(every_seconds=10)

            def people(first: int, count: int) -> list[Clip]:
                found = []
                progress.start("people for the mouth reader", count)
                for seed in range(first, first + count):
                    clip = world.draw(seed, seconds)
                    found.append(replace(clip, frames_THWC=recoded(encoders, clip.frames_THWC)))
                    progress.step(str(seed))
                progress.finish()
                return found

            made = reader.train(people(world.FIRST_SEED, READER_CLIPS), steps=READER_STEPS, progress=progress)
            facts = {"clips": READER_CLIPS, "steps": READER_STEPS, "held_out_clips": READER_HELD_OUT}
            facts |= _exactness(made, people(FIRST_READER_TEST, READER_HELD_OUT))
            atomic.write_text(folder / READER_FACTS, json.dumps(facts, indent=1) + "\n")
            atomic.write_bytes(path, save(made.state_dict()))
    found = reader.MouthReader()
    found.load_state_dict(load_file(path))
    return found.requires_grad_(False).eval()


def _exactness(mouths: reader.MouthReader, clips: list[Clip]) -> dict[str, Any]:
    """Return what share of the mouth's opening a reader explains on film of people it has not seen."""
    seen_T = np.concatenate([mouths.read(clip.frames_THWC, clip.mouth)[:, 0] for clip in clips])
    true_T = np.concatenate([clip.opening_T[: len(clip.frames_THWC)] for clip in clips])
    unexplained = float(((seen_T - true_T) ** 2).mean() / true_T.var())
    return {"held_out_r2": 1 - unexplained, "held_out_correlation": float(np.corrcoef(seen_T, true_T)[0, 1])}


def measured(frames_THWC: Frames, clip: Clip, mouths: reader.MouthReader) -> dict[str, float]:
    """Return what the truth says of the frames of a clip."""
    ends = round(ENDS_SECONDS * FRAME_RATE)
    sync = evaluate.sync(frames_THWC, clip, mouths)
    distance_T = evaluate.distance_T(frames_THWC, clip)
    sharpness_T = evaluate.sharpness_T(frames_THWC)
    return {
        "mouth.correlation": sync.correlation,
        "mouth.lag_frames": float(sync.lag_frames),
        "mouth.chance": sync.chance,
        "film.distance": float(distance_T.mean()),
        "film.distance_first": float(distance_T[:ends].mean()),
        "film.distance_last": float(distance_T[-ends:].mean()),
        "sharpness_first": float(sharpness_T[:ends].mean()),
        "sharpness_last": float(sharpness_T[-ends:].mean()),
    }


@dataclass(frozen=True)
class Stage:
    """Where and with what scenes are played.

    Attributes:
        out: Folder of the ablation.
        system: Who plays.
        key: Of the weights; a clip of other ones is made again.
        play: Makes a scene's frames.
        mouths: Reads the mouth.
    """

    out: Path
    system: str
    key: str
    play: Player
    mouths: reader.MouthReader

    def perform(self, scene: Scene) -> bool:
        """Make and measure a scene; return False if that is done already."""
        path = self.out / CLIPS / self.system / f"{scene.id}.mp4"
        told = self.out / MEASURES / self.system / f"{scene.id}.json"
        if path.is_file() and told.is_file() and json.loads(told.read_text(encoding="utf-8"))["key"] == self.key:
            return False
        clip = scene.clip(self.out / DRAWN)
        frames_THWC = self.play(clip, scene.seed)
        if self.system == FILM:
            opening = tuple(round(float(each), 4) for each in clip.opening_T)
            truth = Truth(
                frame_rate=str(FRAME_RATE), mouth_opening=opening, audio_offset_frames=0, identity=scene.identity
            )
            sidecar = Sidecar(item=scene.id, system=self.system, truth=truth)
            atomic.write_text(path.with_suffix(".clip.json"), sidecar.to_json() + "\n")
        write_clip(path, frames_THWC, frame_rate=FRAME_RATE, audio_N=clip.sound_N)
        facts = {"system": self.system, "item": scene.id, "identity": scene.identity, "tier": scene.tier}
        values = measured(frames_THWC, clip, self.mouths)
        record = facts | {"seed": scene.seed, "key": self.key, "values": values}
        atomic.write_text(told, json.dumps(record) + "\n")
        return True


def stage(out: Path, system: str, weights_dir: Path, num_steps: int) -> Stage:
    """Return a system, loaded.

    Args:
        out: Folder of the ablation.
        system: Its name; `FILM` is the drawn people themselves.
        weights_dir: Exported generator with autoencoder and encoders beside it.
        num_steps: Of the sampler.

    Raises:
        PrerequisiteError: If weights are absent.
        TalkbenchError: If the weights do not fit.
    """
    recipe = tiny()
    recipe = replace(recipe, sampler=replace(recipe.sampler, num_steps=num_steps))
    if system == FILM:
        encoders = build_encoders(recipe, weights_dir)
        key = sha256_file(checkpoint.Files.below(weights_dir).vae)
        mouths = ready_reader(out, encoders)
        return Stage(out, system, key, lambda clip, _: recoded(encoders, clip.frames_THWC), mouths)
    model = build(recipe, weights_dir)
    shards = sorted(checkpoint.Files.below(weights_dir).model.glob("*.safetensors"))
    key = " ".join([*map(sha256_file, shards), str(num_steps)])
    return Stage(out, system, key, partial(evaluate.talk, model), ready_reader(out, model))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the ablation")
    parser.add_argument("--system", required=True, help=f"name of the system; {FILM}: the drawn people themselves")
    parser.add_argument("--seed", type=int, required=True, help="whose scenes are played")
    parser.add_argument("--weights-dir", type=Path, required=True, help="exported generator")
    parser.add_argument("--num-steps", type=int, default=4, help="of the sampler")
    parser.add_argument("--cast", default="{}", help="JSON of how many people play for how long, where not as usual")
    parser.add_argument("--short-only", action="store_true", help="leave out the long scenes")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    leave_with_parent()
    torch.set_num_threads(1)  # the same numbers on any machine; more cores are more processes
    playing = stage(asked.out, asked.system, asked.weights_dir, asked.num_steps)
    scenes = Cast(**json.loads(asked.cast)).scenes(asked.seed)
    chosen = [scene for scene in scenes if scene.tier == "short" or not asked.short_only]
    for number, scene in enumerate(chosen, 1):
        done = "made" if playing.perform(scene) else "there"
        sys.stderr.write(f"{scene.id} {done}, {number} of {len(chosen)}\n")


if __name__ == "__main__":
    main()
