"""Our Q-Align against the official code as pyiqa carries it, on the same weights and pictures.

`qalign.json` holds what the official code gave for weights and pictures that can be made again from a few numbers. To
renew it, in an environment made from talkbench/calibrate/oracles/pyiqa.lock:

    python -m tests.calibration.test_qalign path/to/that/environment/bin/python
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from talkbench.media.clip import Frames
from talkbench.metrics import quality
from tests import tiny_qalign
from tests.support import ROOT

FILE = Path(__file__).with_name("qalign.json")
REAL = ROOT.parent / "shared" / "data" / "real"
ORACLE = ROOT / "talkbench" / "calibrate" / "oracles" / "pyiqa.py"
LOGIT_TOLERANCE = 1e-4
SCORE_TOLERANCE = 0.02
"""The official score is computed in float16 from start to end; its last step alone is 0.004 wide near 5."""

SEEDS = (0, 1)
PICTURES: list[dict[str, Any]] = [
    *[{"chart": size} for size in ([64, 80], [416, 720], [720, 416], [447, 449], [448, 448], [33, 601], [1080, 1920])],
    {"noise": [301, 203]},
    *[{"clip": clip, "frame": frame} for clip, frame in (("10", 0), ("10", 54), ("10", 108))],
    *[{"clip": "talk_emotion", "frame": frame} for frame in (0, 68, 136)],
    {"clip": "10", "frame": 3, "crop": [0, 512, 100, 401]},
    {"clip": "talk_emotion", "frame": 5, "crop": [77, 254, 0, 512]},
]


def picture(recipe: dict[str, Any]) -> Frames:
    """Return the uint8 picture that a recipe describes."""
    if "chart" in recipe:
        # Whole numbers only: the digest of the pixels must not depend on a processor's sine.
        height, width = recipe["chart"]
        y, x = np.mgrid[0:height, 0:width]
        return np.stack([x * 255 // width, y * 255 // height, (x // 16 + y // 9) % 2 * 200], axis=-1).astype(np.uint8)
    if "noise" in recipe:
        return np.random.default_rng(0).integers(0, 256, (*recipe["noise"], 3), dtype=np.uint8)
    path = REAL / recipe["clip"] / "clip.mp4"
    if not path.exists():
        pytest.skip(f"needs the shared clip {recipe['clip']}")
    with av.open(str(path)) as container:
        frames = (frame for number, frame in enumerate(container.decode(video=0)) if number == recipe["frame"])
        pixels: Frames = next(frames).to_ndarray(format="rgb24")
    top, bottom, left, right = recipe.get("crop", (0, pixels.shape[0], 0, pixels.shape[1]))
    return np.ascontiguousarray(pixels[top:bottom, left:right])


@pytest.fixture(scope="module", params=SEEDS)
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Any, Any]:
    folder = tiny_qalign.write(tmp_path_factory.mktemp("tiny"), seed=request.param)
    words = quality.vocabulary(folder / quality.TOKENIZER_FILE)
    return request.param, quality.build(folder, "cpu", "float32", int8=False).eval(), words


def agreed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


@pytest.mark.parametrize("task", ["quality", "aesthetics"])
def test_prompts_become_the_official_token_ids(ours: tuple[int, Any, Any], task: str) -> None:
    asked = quality.question(ours[2], quality.QAlignParams(), task)
    assert [*asked.before, -200, *asked.after] == agreed()["prompts"][task]


@pytest.mark.parametrize("number", range(len(PICTURES)), ids=lambda number: json.dumps(PICTURES[number]))
def test_logits_and_scores_are_the_official_ones(ours: tuple[int, Any, Any], number: int) -> None:
    seed, net, words = ours
    [case] = [case for case in agreed()["cases"] if case["seed"] == seed and case["picture"] == PICTURES[number]]
    pixels = quality.normalised(quality.on_square(picture(case["picture"]), 448)[None])
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == case["pixels"]
    answers = quality.level_ids(words, FILE)
    with torch.inference_mode():
        image = net.look(torch.from_numpy(pixels))
        for task in ("quality", "aesthetics"):
            asked = quality.question(words, quality.QAlignParams(), task)
            logits = net.ask(image, asked.before, asked.after, answers).numpy()
            assert np.abs(logits[0] - case[task]["logits"]).max() < LOGIT_TOLERANCE
            assert abs(quality.judged(logits)[0][0] - case[task]["score"]) < SCORE_TOLERANCE


def renew(oracle_python: str) -> None:
    """Ask the official code again, and write `qalign.json`."""
    cases = []
    with tempfile.TemporaryDirectory() as name:
        for number, recipe in enumerate(PICTURES):
            Image.fromarray(picture(recipe)).save(Path(name) / f"{number}.png")
        for seed in SEEDS:
            folder = tiny_qalign.write(Path(name) / f"weights{seed}", seed=seed)
            found = {dtype: official(oracle_python, folder, dtype, Path(name)) for dtype in ("float32", "float16")}
            for number, recipe in enumerate(PICTURES):
                wide, half = (found[dtype]["pictures"][f"{number}.png"] for dtype in ("float32", "float16"))
                case: dict[str, Any] = {"seed": seed, "picture": recipe, "pixels": wide["quality"]["pixels"]}
                for task in ("quality", "aesthetics"):
                    logits = [round(value, 6) for value in wide[task]["logits"]]
                    case[task] = {"logits": logits, "score": half[task]["score"]}
                cases.append(case)
    prompts = {task: wide[task]["ids"] for task in ("quality", "aesthetics")}
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    head = json.dumps({"versions": found["float32"]["versions"], "prompts": prompts})
    FILE.write_text(f'{head[:-1]},\n "cases": [\n{lines}\n]}}\n', encoding="utf-8")


def official(oracle_python: str, weights: Path, dtype: str, pictures: Path) -> dict[str, Any]:
    """Run the oracle on every picture of a folder."""
    output = pictures / "scores.json"
    files = sorted(map(str, pictures.glob("*.png")))
    command = [oracle_python, str(ORACLE), "--weights", str(weights), "--output", str(output), "--dtype", dtype]
    subprocess.run([*command, *files], check=True)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


if __name__ == "__main__":
    renew(sys.argv[1])
