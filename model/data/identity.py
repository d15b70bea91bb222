"""What a folder of samples was encoded with, so that training can refuse another's."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from talkbench.ids import digest, sha256_file

from .. import checkpoint
from ..config import Recipe

NO_INFLUENCE = ("prompt", "seed", "color_strength")
"""Of a stream, on how a clip is encoded."""


def of_encoders(recipe: Recipe, weights_dir: Path | None) -> dict[str, str]:
    """Return digests of what decides how a clip is encoded: sizes, the chunk scheme, and the bytes of the weights.

    Raises:
        PrerequisiteError: If weights are absent.
    """
    stream = {name: value for name, value in asdict(recipe.stream).items() if name not in NO_INFLUENCE}
    parts = {"vae": asdict(recipe.vae), "text": asdict(recipe.text), "image": asdict(recipe.image)}
    parts |= {"speech": asdict(recipe.speech), "stream": stream}
    named = {name: digest(json.loads(json.dumps(part, default=str))) for name, part in parts.items()}
    named |= {"window": str(recipe.dit.audio.window), "dtype": recipe.compute.dtype}
    if weights_dir is None and recipe.shipped is not None:
        weights_dir = checkpoint.shipped(recipe.shipped)
    elif weights_dir is None and recipe.weights_seed is not None:
        return named | {"weights": f"random {recipe.weights_seed}"}
    files = checkpoint.locate(weights_dir)
    speech = sorted(path for path in files.speech.iterdir() if path.suffix in {".bin", ".safetensors"})
    paths = {"vae": files.vae, "text": files.text, "image": files.image} | {f"speech {p.name}": p for p in speech}
    return named | {f"weights of {name}": sha256_file(path) for name, path in paths.items()}
