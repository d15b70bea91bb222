"""What the cells of an ablation leave, read back: the generator to start from, the cost of a training, the measures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from talkbench.errors import TalkbenchError

from .. import PACKAGE, checkpoint
from ..train import EXPORT
from ..training.checkpoints import described
from ..training.config import TrainRecipe
from ..training.watch import METRICS
from .trial import FILM, MEASURES


def exported(init: Path) -> Path:
    """Return the weights folder of a stage-1 run, or the one that was given.

    Raises:
        TalkbenchError: If there is neither.
    """
    for folder in (init / EXPORT, init):
        if (checkpoint.Files.below(folder).model / checkpoint.DIT_INDEX).is_file():
            return folder
    raise TalkbenchError(
        f"{init} holds no exported generator to start from. Train one: "
        f"`python -m {PACKAGE}.train --recipe sft_tiny --data DATA --out {init}`."
    )


def training_facts(folder: Path, recipe: TrainRecipe) -> dict[str, Any]:
    """Return what a finished training took, as its own record tells it; time in which it did not run is not counted."""
    steps = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    tokens = sum(step["tokens_per_second"] * step["seconds"] for step in steps)
    return {
        "recipe": described(recipe),
        "steps": len(steps),
        "seconds": sum(step["seconds"] for step in steps),
        "passes": round(tokens / recipe.model.num_tokens),
    }


def gathered(out: Path) -> Iterator[dict[str, Any]]:
    """Yield every measure of the folder; sharpness relative to the true film's, left out while that is not there."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / MEASURES).glob("*/*.json"))]
    film = {record["item"]: record["values"] for record in records if record["system"] == FILM}
    for record in records:
        about = {name: record[name] for name in ("system", "item", "identity", "tier", "seed")}
        for name, value in record["values"].items():
            if not name.startswith("sharpness"):
                yield about | {"name": name, "value": value}
            elif record["item"] in film:
                yield about | {"name": name, "value": value / film[record["item"]][name]}
