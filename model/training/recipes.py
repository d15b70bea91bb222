"""Complete training runs by name: `train_recipe("sft_tiny")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass, replace
from typing import Any

import yaml

from ..config import Recipe
from ..recipes import flashtalk_14b, tiny
from .config import DistillConfig, OptimizerConfig, SftConfig, TrainRecipe


def _model_14b() -> Recipe:
    """Return the released model, decoded one latent at a time: eight at once need 15 GB beside the optimiser."""
    model = flashtalk_14b()
    return replace(model, compute=replace(model.compute, decode_groups=(1,) * model.latent_frames))


def sft_14b() -> TrainRecipe:
    """Stage 1 of the report: from InfiniteTalk, 1000 steps of 32 clips."""
    return TrainRecipe(
        name="sft_14b",
        description="stage 1 of the report: 32 GPUs of 96 GB, or 8 of 80 GB with four clips each",
        model=_model_14b(),
        stage=SftConfig(),
    )


def distill_14b() -> TrainRecipe:
    """Stage 2 of the report: 200 steps of 32 clips, the generator updated in 40 of them."""
    return TrainRecipe(
        name="distill_14b",
        description="stage 2 of the report: 32 GPUs of 96 GB, 8 of 141 GB, or 8 of 80 GB with `--set offload=true`",
        model=_model_14b(),
        stage=DistillConfig(),
        save_every=20,
    )


def sft_tiny() -> TrainRecipe:
    """Stage 1 in the tiny world, on one CPU core."""
    return TrainRecipe(
        name="sft_tiny",
        description="stage 1 at toy width on drawn people, 64x64; 20 minutes on one CPU core",
        model=tiny(),
        stage=SftConfig(
            steps=4000,
            batch=8,
            optimizer=OptimizerConfig(1e-3, (0.9, 0.99), decay_from=0.3),
            drop_both=0.1,
            drop_text=0.0,
        ),
        save_every=250,
        precision="float32",
        checkpoint_activations=False,
    )


def distill_tiny() -> TrainRecipe:
    """Stage 2 in the tiny world, on one CPU core."""
    return TrainRecipe(
        name="distill_tiny",
        description="stage 2 at toy width on drawn people, 64x64; minutes on one CPU core",
        model=tiny(),
        stage=DistillConfig(
            steps=100,
            batch=2,
            generator=OptimizerConfig(2e-4, (0.0, 0.999), clip_norm=10.0, decay_from=0.5),
            fake=OptimizerConfig(5e-4, (0.0, 0.999), clip_norm=10.0, decay_from=0.5),
            # Equal scales: only "nothing told" is compared with, which is what stage 1 of the tiny world has seen.
            text_scale=2.0,
            audio_scale=2.0,
        ),
        save_every=50,
        precision="float32",
        checkpoint_activations=False,
    )


RECIPES: dict[str, Callable[[], TrainRecipe]] = {
    function.__name__: function for function in (sft_tiny, distill_tiny, sft_14b, distill_14b)
}


def train_recipe(name: str) -> TrainRecipe:
    """Return a training recipe by name.

    Raises:
        ValueError: If there is none of that name; the message lists them.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown training recipe {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]()


def changed(recipe: TrainRecipe, fields: Mapping[str, str]) -> TrainRecipe:
    """Return a recipe with some fields changed, named as in a checkpoint: ``stage.chunks``, ``stage.generator.rate``.

    Values are YAML: ``3``, ``1e-5``, ``random``, ``[0.0, 0.999]``.

    Raises:
        ValueError: If there is no such field, or a value is not of its kind or out of its range; names both.
    """
    for path, text in fields.items():
        try:
            recipe = _with(recipe, path.split("."), yaml.safe_load(text), path)
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: {text!r} cannot be read as YAML") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return recipe


def _with(part: Any, names: list[str], value: Any, path: str) -> Any:
    known = [field.name for field in dataclass_fields(part)] if is_dataclass(part) else []
    if names[0] not in known:
        raise ValueError(f"no field {names[0]!r}; there is: {', '.join(known) or 'nothing below it'}")
    old = getattr(part, names[0])
    if len(names) > 1:
        return replace(part, **{names[0]: _with(old, names[1:], value, path)})
    return replace(part, **{names[0]: _like(old, value, path)})


def _like(old: Any, value: Any, path: str) -> Any:
    """Return a value in the kind of the one that it replaces."""
    if isinstance(old, tuple) and old and isinstance(value, list):
        return tuple(_like(old[0], each, path) for each in value)
    if isinstance(old, float) or (path == "ema_decay" and value is not None):
        value = _float(value)
    kinds = {
        "stage.chunks": (value == "random", type(value) is int),
        "ema_decay": (value is None, type(value) is float),
    }
    if is_dataclass(old) or not any(kinds.get(path, (type(value) is type(old),))):
        raise ValueError(f"{value!r} is not of the kind of {old!r}")
    return value


def _float(value: Any) -> Any:
    """Return whole numbers, and text that is a number, as one with a point: YAML takes 1e-5 for text."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except ValueError:
        return value
