"""What the VBench vectors are made of: clips and weights that come out the same on every machine.

    python -m tests.calibration.vbench_recipe make DIR         # clips and official weight files, for the oracle
    python talkbench/calibrate/oracles/vbench.py ...           # in the oracle's environment (vbench.lock)
    python -m tests.calibration.vbench_recipe agree DIR OFFICIAL.json tests/calibration/vbench.json

Clips are drawn as integer YUV planes and encoded without loss, so that no encoder has a say in the decoded pixels.
Weights are random, each tensor seeded by its own name, and scaled so that frames look different to the networks.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import torch

from talkbench.media import probe
from talkbench.media.clip import ClipFacts
from talkbench.media.decode import VideoReader
from talkbench.metrics import networks
from talkbench.metrics.base import Context, Runner, Scores
from talkbench.metrics.consistency import BackgroundRunner, SubjectRunner
from talkbench.metrics.flicker import FlickerRunner
from talkbench.metrics.smoothness import SmoothnessRunner
from talkbench.weights.catalog import WeightFile
from tests import random_weights

SEED = "vbench-1"
GAINS = {"dino": 1.5, "clip": 1.5, "amt": 0.8}
FILES = {"dino": "dino_vitbase16_pretrain.pth", "clip": "ViT-B-32.pt", "amt": "amt-s.pth"}
KEYS = {"dino": "dino_vitb16", "clip": "clip_vitb32_full", "amt": "amt_s"}
RUNNERS: dict[str, type[Runner]] = {
    "subject_consistency": SubjectRunner,
    "background_consistency": BackgroundRunner,
    "motion_smoothness": SmoothnessRunner,
    "temporal_flickering": FlickerRunner,
}
TOLERANCES = {
    "subject_consistency": 2e-5,
    "background_consistency": 2e-5,
    "motion_smoothness": 2e-5,
    "temporal_flickering": 1e-6,
}


@dataclass(frozen=True)
class Recipe:
    """A clip. `matrix` is a number of H.273; 2 means untagged."""

    name: str
    width: int
    height: int
    num_frames: int
    frame_rate: int
    matrix: int = 2


CLIPS = (
    Recipe("landscape", 160, 128, 7, 25),
    Recipe("odd-bt709", 214, 134, 5, 30, matrix=1),
    Recipe("portrait", 130, 176, 3, 25),
)


def planes(recipe: Recipe) -> list[np.ndarray]:
    """Return frames of drifting patterns and a wandering disc as yuv420p planes, [3/2 H, W]; integers throughout."""

    def plane(height: int, width: int, number: int, salt: int) -> np.ndarray:
        y, x = np.mgrid[0:height, 0:width].astype(np.int64)
        texture = (x * (5 + salt) + y * 3 + (x * y) // (9 + salt) + 4 * number * (1 + salt)) % 160
        texture = np.abs(texture - 80) + 60
        centre_x, centre_y = (7 * number * width // 60) % width, (height // 3 + 5 * number * height // 90) % height
        disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < (min(height, width) // 4) ** 2
        return np.where(disc, 200 - 40 * salt, texture).astype(np.uint8)

    half_height, half_width = recipe.height // 2, recipe.width // 2
    frames = []
    for number in range(recipe.num_frames):
        chroma = [plane(half_height, half_width, number, salt).ravel() for salt in (1, 2)]
        whole = np.concatenate([plane(recipe.height, recipe.width, number, 0).ravel(), *chroma])
        frames.append(whole.reshape(-1, recipe.width))
    return frames


def encode(recipe: Recipe, path: Path) -> Path:
    """Write a clip without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=recipe.frame_rate, options={"qp": "0", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = recipe.matrix, 1
        for number, pixels in enumerate(planes(recipe)):
            frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, recipe.frame_rate)
            frame.colorspace, frame.color_range = recipe.matrix, 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def weights(name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of an official file, by catalog name, in its precisions."""
    state = {key: seeded(key, shape, GAINS[name]) for key, shape in random_weights.keys(KEYS[name]).items()}
    if name == "clip":
        kept = ("ln_", "class_embedding", "positional_embedding", "token_embedding", "logit_scale")
        state = {
            key: value if any(part.startswith(kept) for part in key.split(".")) else value.half()
            for key, value in state.items()
        }
    return state


def seeded(name: str, shape: Sequence[int], gain: float) -> torch.Tensor:
    """Return a random tensor that depends on its name, shape and gain only."""
    seed = int.from_bytes(hashlib.sha256(f"{SEED}/{name}".encode()).digest()[:8], "little")
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape), dtype=np.float32)
    kind = name.rpartition(".")[2]
    if kind in {"class_embedding", "cls_token", "pos_embed", "positional_embedding"}:
        values = 0.5 * noise
    elif len(shape) > 1:
        # CLIP stores its projections as inputs x outputs.
        fan_in = shape[0] if kind in {"proj", "text_projection"} else math.prod(shape[1:])
        values = noise * np.float32(gain / math.sqrt(fan_in))
    elif kind == "weight":
        values = 0.05 * noise + (1.0 if "norm" in name or "ln_" in name else 0.25)
    else:
        values = 0.02 * noise
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def write_weights(folder: Path) -> None:
    """Write the three files in their official formats."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights("dino"), folder / FILES["dino"])
    torch.save({"state_dict": weights("amt")}, folder / FILES["amt"])
    facts = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    buffers = {name: torch.tensor(value) for name, value in facts.items()}
    random_weights.torchscript(weights("clip"), buffers, folder / FILES["clip"])


def score(runner: Runner, path: Path) -> tuple[Scores, str]:
    """Return our scores of a clip, and the SHA-256 of its decoded pixels."""
    facts = probe.probe(path).video
    pixels = hashlib.sha256()
    with probe.open_clip(path) as container:
        reader = VideoReader(container, path, facts)
        runner.start(ClipFacts(facts.width, facts.height, Fraction(facts.frame_rate), has_audio=False))
        for batch in reader.batches():
            pixels.update(batch.frames_THWC.tobytes())
            runner.update(batch)
    return runner.finish(), pixels.hexdigest()


def context(folder: Path) -> Context:
    """Return a context whose weight files lie in a folder, on one thread."""
    found = {name: WeightFile(name, folder / file, f"{SEED}-{name}", "unverified") for name, file in FILES.items()}
    return Context(threads=1, weights=found)


def vectors(folder: Path, official: Mapping[str, Any], clips: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return official and our values of clips, with what identifies their pixels."""
    runners = {dimension: runner(context=context(folder)) for dimension, runner in RUNNERS.items()}
    found = []
    for name, path in clips.items():
        ours = {}
        for dimension, runner in runners.items():
            scores, pixels = score(runner, path)
            ours[dimension] = scores.values[f"vbench.{dimension}"]
        theirs = {dimension: official["values"][dimension][path.name] for dimension in RUNNERS}
        found.append({"name": name, "pixels_sha256": pixels, "official": theirs, "ours": ours})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make").add_argument("folder", type=Path)
    agree = commands.add_parser("agree")
    agree.add_argument("folder", type=Path)
    agree.add_argument("official", type=Path, help="what the oracle printed")
    agree.add_argument("vectors", type=Path, help="file to write")
    given = parser.parse_args()
    if given.command == "make":
        write_weights(given.folder)
        for recipe in CLIPS:
            print(encode(recipe, given.folder / f"{recipe.name}.mp4"))
        return
    official = json.loads(given.official.read_text())
    with mock.patch.object(networks, "_loaded", {}):
        made = vectors(given.folder, official, {r.name: given.folder / f"{r.name}.mp4" for r in CLIPS})
        listed = {Path(clip).stem: given.folder / clip for clip in official["values"]["temporal_flickering"]}
        others = {name: path for name, path in listed.items() if name not in {r.name for r in CLIPS}}
        recorded = vectors(given.folder, official, others)
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": official["versions"],
        "dino_source": official["dino_source"],
        "weights": {"seed": SEED, "gains": GAINS},
        "tolerances": TOLERANCES,
        "clips": [{"recipe": asdict(recipe), **vector} for recipe, vector in zip(CLIPS, made, strict=True)],
        "recorded": recorded,
    }
    given.vectors.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
