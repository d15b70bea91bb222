"""Our scene cuts against PySceneDetect's, called as the official sync pipeline calls it, on the same pixels.

`cuts.json` holds what it found in clips that can be made again from a few numbers, and in joined pieces of the shared
real clips. To renew it, in an environment made from talkbench/calibrate/oracles/syncnet.lock:

    python -m tests.calibration.test_cuts path/to/that/environment/bin/python
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talkbench.media.clip import Frames
from talkbench.metrics.cuts import Cuts
from tests.support import ROOT, make_raw

FILE = Path(__file__).with_name("cuts.json")
REAL = ROOT.parent / "shared" / "data" / "real"
ORACLE = ROOT / "talkbench" / "calibrate" / "oracles" / "syncnet.py"
CHANGE_TOLERANCE = 1e-9

SIZES = ([64, 96], [144, 256], [148, 258], [200, 320], [368, 208], [288, 512], [416, 720])
"""Rows and columns: not reduced, just not, hardly, landscape, portrait, by exactly two, as in the report."""
RECIPES: list[dict[str, Any]] = [
    *[{"size": size, "rooms": [30, 40, 15, 16, 33]} for size in SIZES],
    # No cut so early, nor at frame 14, but at 15; then bursts that end in time, too late, or never.
    {"size": [64, 96], "rooms": [5, 30]},
    {"size": [64, 96], "rooms": [14, 30]},
    {"size": [64, 96], "rooms": [15, 30]},
    {"size": [64, 96], "rooms": [20, 1, 40, 30]},
    {"size": [64, 96], "rooms": [20, 14, 1, 40]},
    {"size": [64, 96], "rooms": [20, 5, 14, 40]},
    {"size": [64, 96], "rooms": [20, 5, 15, 14]},
    {"size": [64, 96], "rooms": [20, 5, 15, 15]},
    {"size": [64, 96], "rooms": [20, 5, 15, 16]},
    {"size": [64, 96], "rooms": [20, *[3] * 12, 40, 20]},
    # Grey steps change the value alone: 81 / 3 levels are the threshold, 80 / 3 are not.
    {"size": [64, 96], "greys": [[20, 10], [20, 91], [20, 171], [20, 90], [20, 170]]},
    # A fade over ten frames, a hard return.
    {"size": [64, 96], "greys": [[20, 10], *[[1, 10 + 24 * k] for k in range(1, 11)], [30, 10]]},
    *[{"size": [64, 96], "seed": seed} for seed in range(12)],
    {"clips": [["10", 0, 109]]},
    {"clips": [["talk_emotion", 0, 137]]},
    {"clips": [["10", 0, 40], ["talk_emotion", 0, 40], ["10", 60, 100]]},
    {
        "clips": [
            ["talk_emotion", 0, 16],
            ["10", 0, 6],
            ["talk_emotion", 16, 24],
            ["10", 6, 20],
            ["talk_emotion", 24, 60],
        ]
    },
    {"clips": [["10", 0, 12], ["10", 80, 100], ["talk_emotion", 100, 115], ["10", 20, 60]]},
]


def room(size: list[int], number: int) -> Frames:
    """Return a picture of coarse colour noise, uint8 [H, W, 3]."""
    height, width = size
    rng = np.random.Generator(np.random.PCG64(number))
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def frames(recipe: dict[str, Any]) -> Iterator[Frames]:
    """Yield the uint8 RGB frames that a recipe describes."""
    for clip, first, last in recipe.get("clips", []):
        with av.open(str(REAL / clip / "clip.mp4")) as container:
            for frame in islice(container.decode(video=0), first, last):
                yield frame.to_ndarray(format="rgb24")
    for count, level in recipe.get("greys", []):
        yield from [np.full((*recipe["size"], 3), level, np.uint8)] * count
    lengths = recipe.get("rooms", [])
    if "seed" in recipe:
        rng = np.random.Generator(np.random.PCG64(recipe["seed"]))
        lengths = [int(n) for n in rng.choice([1, 2, 5, 9, 14, 15, 16, 17, 25, 31], 16)]
    for number, length in enumerate(lengths):
        picture = room(recipe["size"], number)
        # Something moves inside each scene, so that changes below the threshold are compared as well.
        yield from (np.roll(picture, t // 4, axis=1) for t in range(length))


def ours(recipe: dict[str, Any]) -> tuple[str, list[int], list[float]]:
    """Return the digest of the pixels, our cuts, and the change of each frame."""
    pixels, starts, changes = hashlib.sha256(), [], []

    class Noted(Cuts):
        def _change(self, frame_HWC: Frames) -> float:
            changes.append(super()._change(frame_HWC))
            return changes[-1]

    cuts = Noted()
    for frame_HWC in frames(recipe):
        pixels.update(np.ascontiguousarray(frame_HWC).tobytes())
        found = cuts.look(frame_HWC)
        starts += [] if found is None else [found]
    return pixels.hexdigest(), starts, changes


@pytest.mark.parametrize("number", range(len(RECIPES)), ids=lambda number: json.dumps(RECIPES[number]))
def test_scenes_begin_where_pyscenedetect_says(number: int) -> None:
    if "clips" in RECIPES[number] and not REAL.is_dir():
        pytest.skip("needs the shared real clips")
    [case] = [case for case in json.loads(FILE.read_text())["cases"] if case["recipe"] == RECIPES[number]]
    pixels, starts, changes = ours(RECIPES[number])
    assert pixels == case["pixels"]
    assert len(changes) == case["num_frames"]
    assert starts == case["starts"]
    np.testing.assert_allclose([changes[at] for at in case["kept"]], case["changes"], rtol=0, atol=CHANGE_TOLERANCE)


def test_the_cases_hold_cuts_and_bursts_of_every_kind() -> None:
    cases = json.loads(FILE.read_text())["cases"]
    assert {len(case["starts"]) for case in cases} >= {0, 1, 2, 3, 4}
    changed = [sum(change >= 27 for change in case["changes"]) for case in cases]
    assert sum(many > len(case["starts"]) for many, case in zip(changed, cases, strict=True)) >= 10


def renew(python: str) -> None:
    """Ask PySceneDetect again, compare the change of every frame, and write `cuts.json`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / f"{number}.mkv" for number in range(len(RECIPES))]
        for recipe, path in zip(RECIPES, files, strict=True):
            make_raw(path, list(frames(recipe)), codec="ffv1", pix_fmt="bgr0")
        command = [python, str(ORACLE), "--weights", name, "--output", str(folder / "answer.json")]
        subprocess.run([*command, *(part for path in files for part in ("--scenes", str(path)))], check=True)
        answer = json.loads((folder / "answer.json").read_text())
    cases, worst = [], 0.0
    for recipe, path in zip(RECIPES, files, strict=True):
        theirs, (pixels, starts, changes) = answer["scenes"][path.name], ours(recipe)
        if (pixels, starts) != (theirs["pixels"], theirs["starts"]):
            print("different:", recipe, starts, theirs["starts"], pixels == theirs["pixels"])
        worst = max(worst, float(np.abs(np.array(changes) - theirs["changes"]).max()))
        kept = [at for at, change in enumerate(theirs["changes"]) if change >= 20 or at == len(changes) - 1]
        case = {key: theirs[key] for key in ("pixels", "starts")}
        case |= {"num_frames": len(changes), "kept": kept, "changes": [theirs["changes"][at] for at in kept]}
        cases.append({"recipe": recipe, **case})
    print("worst change:", worst)
    lines = ",\n  ".join(json.dumps(case) for case in cases)
    head = json.dumps({"versions": answer["versions"], "worst": worst})
    FILE.write_text(f'{head[:-1]},\n "cases": [\n  {lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    renew(sys.argv[1])
