"""Our VBench dimensions against the official code's values, on full-size networks with seeded random weights.

The official values were computed once (`vbench_recipe.py` says how); ours are computed again here, from the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from talkbench.metrics import networks
from talkbench.metrics.consistency import BackgroundRunner, SubjectRunner
from talkbench.metrics.smoothness import SmoothnessRunner
from talkbench.nets.amt import AmtS
from talkbench.nets.clip import ClipVision, half_rounded
from talkbench.nets.dino import DinoViT
from tests.calibration import vbench_recipe as recipe

VECTORS = json.loads((Path(__file__).parent / "vbench.json").read_text())
CLIPS = [pytest.param(vector, id=vector["name"]) for vector in VECTORS["clips"]]


def network(name: str) -> nn.Module:
    state = recipe.weights(name)
    with torch.device("meta"):
        net = {"dino": DinoViT, "clip": ClipVision, "amt": AmtS}[name]()
    net.load_state_dict(half_rounded(state) if name == "clip" else state, assign=True)
    return net


@pytest.fixture(autouse=True, scope="module")
def seeded_networks() -> Iterator[None]:
    """Runners get seeded networks instead of files; they are forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "_loaded", {})
        for runner, name in ((SubjectRunner, "dino"), (BackgroundRunner, "clip"), (SmoothnessRunner, "amt")):
            patch.setattr(runner, "_build", lambda self, path, name=name: network(name))
        yield


@pytest.mark.parametrize("vector", CLIPS)
@pytest.mark.parametrize("dimension", recipe.RUNNERS)
def test_ours_is_the_official_value(dimension: str, vector: dict[str, Any], tmp_path: Path) -> None:
    clip = recipe.encode(recipe.Recipe(**vector["recipe"]), tmp_path / "clip.mp4")
    runner = recipe.RUNNERS[dimension](context=recipe.context(tmp_path))

    scores, pixels = recipe.score(runner, clip)

    assert pixels == vector["pixels_sha256"]
    assert scores.values[f"vbench.{dimension}"] == pytest.approx(
        vector["official"][dimension], abs=VECTORS["tolerances"][dimension]
    )


@pytest.mark.parametrize("vector", [*VECTORS["clips"], *VECTORS["recorded"]], ids=lambda vector: vector["name"])
def test_every_recorded_clip_agreed_and_tells_frames_apart(vector: dict[str, Any]) -> None:
    for dimension, official in vector["official"].items():
        assert vector["ours"][dimension] == pytest.approx(official, abs=VECTORS["tolerances"][dimension])
        assert official < 0.9999


def test_weights_are_those_of_the_vectors() -> None:
    assert VECTORS["weights"] == {"seed": recipe.SEED, "gains": recipe.GAINS}
