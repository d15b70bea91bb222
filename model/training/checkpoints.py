"""Checkpoints of a training run: every process writes its part, any number of processes goes on from it.

    FOLDER/step-40/      state.json (recipe, step, position in the data, digests of the files), *.distcp, .metadata
    FOLDER/step-60/
    FOLDER/latest        name of the newest whole one; written last

A checkpoint is written as `step-60.partial`, flushed to the disk and renamed: a full disk, a killed process or a power
cut leaves the one before. All processes must see the same folder. `.metadata` is a pickle: load your own runs only.

Source: `torch.distributed.checkpoint`.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as read_tensors
from torch.distributed.checkpoint.state_dict_saver import save as write_tensors
from torch.optim import Optimizer

from talkbench import atomic
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.ids import sha256_file

from ..parallel.mesh import is_first, on_first, together
from .conditions import Velocity
from .config import TrainRecipe
from .ema import Ema

LATEST, STATE = "latest", "state.json"
_PARTIAL = ".partial"
FREE = ("name", "description", "stage.steps", "save_every", "keep_last", "checkpoint_activations", "offload", "compile",
        "model.name", "model.description", "model.parallel", "model.compute", "model.weights_seed")  # fmt: skip
"""Fields of a recipe that may change between a save and a resume: they change how long or where it runs, not what."""
RATES = ("stage.optimizer.rate", "stage.generator.rate", "stage.fake.rate")
"""Fields that a resume may change too, to go on after a divergence; a checkpoint says what they were."""


@dataclass
class TrainState:
    """Everything that a resumed run needs to go on as if it had not stopped; random draws follow from seed and step.

    Attributes:
        recipe: What is being run.
        nets: The trained networks by name, of `shard.distribute`; frozen ones are not saved.
        optimizers: Of each of them, by the same names.
        averages: Of some of them.
        position: Where in the data the run is; plain JSON.
    """

    recipe: TrainRecipe
    nets: Mapping[str, Velocity]
    optimizers: Mapping[str, Optimizer]
    averages: dict[str, Ema] = field(default_factory=dict)
    position: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Any]:
        """Return what is saved, as views of this process's parts: loading fills them in place."""
        found: dict[str, Any] = {"averages": {name: each.averages for name, each in self.averages.items()}}
        for name, net in self.nets.items():
            weights, moments = get_state_dict(net, self.optimizers[name])
            found[name] = {"weights": weights, "moments": moments}
        return found

    def take(self, tensors: Mapping[str, Any]) -> None:
        """Put back what `tensors` returned and loading filled; averages were filled where they are."""
        for name, net in self.nets.items():
            own = tensors[name]
            set_state_dict(net, self.optimizers[name], model_state_dict=own["weights"], optim_state_dict=own["moments"])


def save(folder: Path, state: TrainState, step: int, keep_last: int) -> Path:
    """Write a checkpoint, point `latest` at it and remove all but the last ones; every process calls it.

    Args:
        folder: Of the run.
        state: What to save.
        step: Steps done.
        keep_last: Checkpoints that stay, this one included.

    Returns:
        The checkpoint's folder.

    Raises:
        PrerequisiteError: If it cannot be written (a full disk); the ones before are as they were.
        ValueError: If `keep_last` is less than 1.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last is {keep_last}; expected 1 or more")
    final = folder / f"step-{step}"
    partial = final.with_name(final.name + _PARTIAL)
    try:
        on_first(lambda: _clear(partial))
        _quietly(lambda: write_tensors(state.tensors(), storage_writer=FileSystemWriter(partial)))
        digests = _digests(sorted(path.name for path in partial.iterdir()), partial)
        on_first(lambda: _commit(partial, final, _record(state, step, digests)))
        on_first(lambda: _remove_all_but(folder, keep_last, step))
    except (OSError, TalkbenchError, CheckpointException) as error:
        if is_first():
            shutil.rmtree(partial, ignore_errors=True)
        raise PrerequisiteError(
            f"step {step} could not be saved in {folder}: {_reason(error)}. {_still_there(folder)} "
            "Free space there or lower `keep_last`, and start the same command again."
        ) from error
    return final


def find(folder: Path) -> Path:
    """Return the checkpoint that a folder is, or the newest whole one of a run.

    Raises:
        TalkbenchError: If there is none.
    """
    if (folder / STATE).is_file():
        return folder
    pointer = folder / LATEST
    if not pointer.is_file():
        raise TalkbenchError(f"{folder} holds no checkpoint: neither `{STATE}` nor `{LATEST}`. Name a run's folder.")
    found = folder / pointer.read_text(encoding="utf-8").strip()
    if not (found / STATE).is_file():
        others = ", ".join(path.name for path in _whole(folder)) or "none"
        raise TalkbenchError(f"{pointer} names {found.name}, which is not there. Name one that is: {others}.")
    return found


def load(folder: Path, state: TrainState) -> int:
    """Fill a state from a checkpoint of the same recipe and return its step; every process calls it.

    The number of processes may be another than at the save: to the last bit only one process's run goes on as before.

    Raises:
        TalkbenchError: If there is none, it is of another recipe (every differing field is named), or a file of it is
            absent or damaged.
    """
    found = find(folder)
    record = _read(found)
    _refuse_other_recipe(found, _but_rates(record["recipe"]), _but_rates(described(state.recipe)))
    _refuse_other_decay(found, record["num_steps"], state.recipe)
    _check_files(found, record["files"])
    tensors = state.tensors()
    _quietly(lambda: read_tensors(tensors, storage_reader=FileSystemReader(found)))
    state.take(tensors)
    state.position = record["position"]
    return int(record["step"])


def load_weights(folder: Path, net: Velocity, recipe: TrainRecipe, name: str, *, averaged: bool = False) -> None:
    """Fill one network from a checkpoint of any recipe with the same model: the next stage starts so.

    Args:
        folder: Of a run or a checkpoint.
        net: Of `shard.distribute`, in any precision.
        recipe: What `net` is built from.
        name: Of the network in that run.
        averaged: Take its averaged weights.

    Raises:
        TalkbenchError: As `load`, and if the checkpoint has no such network.
    """
    found = find(folder)
    record = _read(found)
    theirs, ours = record["recipe"], described(recipe)
    _refuse_other_recipe(found, _only_model(theirs), _only_model(ours))
    known = record["averages" if averaged else "nets"]
    if name not in known:
        kind = "averaged weights" if averaged else "network"
        raise TalkbenchError(f"{found} has no {kind} {name!r}; it has: {', '.join(known) or 'none'}.")
    _check_files(found, record["files"])
    weights: dict[str, Any] = {key: value.detach() for key, value in net.named_parameters()}
    tree = {"averages": {name: weights}} if averaged else {name: {"weights": weights}}
    _quietly(lambda: read_tensors(tree, storage_reader=FileSystemReader(found)))


def described(recipe: TrainRecipe) -> dict[str, str | float | int | bool | None]:
    """Return a recipe field by field with dotted names, as a checkpoint records it; `FREE` fields are left out."""
    flat = dict(_flat(asdict(recipe))) | {"stage": type(recipe.stage).__name__}
    return {name: value for name, value in flat.items() if not any(f"{name}.".startswith(f"{free}.") for free in FREE)}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value))
    else:
        yield name, str(value) if isinstance(value, Fraction) else value


def _only_model(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name.startswith("model.")}


def _but_rates(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in RATES}


def _refuse_other_decay(found: Path, planned: int | None, recipe: TrainRecipe) -> None:
    """Refuse to go on with a run of another length where the rate falls towards its end."""
    steps = recipe.stage.steps
    if planned not in {None, steps} and any(each.decay_from < 1 for each in recipe.stage.optimizers):
        raise TalkbenchError(
            f"{found} is of a run of {planned} steps, and {recipe.name} lets the rate fall towards the end: going on "
            f"to {steps} steps is neither run. Choose another --out, or train the same number: --steps {planned}."
        )


def _refuse_other_recipe(found: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    names = [name for name in {**theirs, **ours} if theirs.get(name, "absent") != ours.get(name, "absent")]
    if names:
        told = "; ".join(
            f"{name} is {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} here" for name in names
        )
        raise TalkbenchError(f"{found} is a checkpoint of another recipe: {told}. Use its recipe, or another folder.")


def _read(found: Path) -> dict[str, Any]:
    try:
        record = json.loads((found / STATE).read_text(encoding="utf-8"))
        read = {name: record[name] for name in ("recipe", "step", "position", "nets", "averages", "files")}
        return read | {"num_steps": record.get("num_steps")}  # older ones do not say it
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TalkbenchError(
            f"{found / STATE} cannot be read ({error!r}). Resume from an earlier checkpoint."
        ) from error


def _record(state: TrainState, step: int, digests: Mapping[str, str | None]) -> dict[str, Any]:
    return {
        "step": step,
        "num_steps": state.recipe.stage.steps,
        "recipe": described(state.recipe),
        "position": state.position,
        "nets": list(state.nets),
        "averages": list(state.averages),
        "files": digests,
    }


def _digests(names: list[str], folder: Path) -> dict[str, str | None]:
    """Return the sha256 of files, None for those that are not there; every process reads its share of them."""

    def own() -> dict[str, str | None]:
        share = names[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else names
        return {name: sha256_file(folder / name) if (folder / name).is_file() else None for name in share}

    parts = together(own) if dist.is_initialized() else [own()]
    return {name: digest for part in parts for name, digest in part.items()}


def _check_files(found: Path, files: Mapping[str, str]) -> None:
    """Refuse absent and damaged files: a flipped byte would otherwise load as a wrong weight."""
    for name, digest in sorted(_digests(sorted(files), found).items()):
        if digest != files[name]:
            what = "is not there" if digest is None else "is damaged: its sha256 is not the one recorded"
            others = ", ".join(path.name for path in _whole(found.parent) if path != found) or "none"
            raise TalkbenchError(f"{found / name} {what}. Resume from another checkpoint of the run: {others}.")


def _clear(partial: Path) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    for old in partial.parent.glob(f"*{_PARTIAL}"):
        shutil.rmtree(old)
    partial.mkdir()


def _commit(partial: Path, final: Path, record: Mapping[str, Any]) -> None:
    """Make what was written a checkpoint: describe it, flush, rename, point at it."""
    atomic.write_text(partial / STATE, json.dumps(record, indent=1) + "\n")
    _flush(partial)
    if final.exists():  # a run that went back to an earlier step
        final.rename(final.with_name(f"{final.name}.replaced{_PARTIAL}"))
    partial.rename(final)
    _flush(final.parent)
    atomic.write_text(final.parent / LATEST, f"{final.name}\n")
    _flush(final.parent)


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _whole(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest step first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _remove_all_but(folder: Path, keep_last: int, step: int) -> None:
    """Remove old checkpoints; later ones, of a run that went back to an earlier step, stay until they are replaced."""
    for old in [path for path in _whole(folder) if _step_of(path) <= step][:-keep_last]:
        shutil.rmtree(old)
    for replaced in folder.glob(f"*{_PARTIAL}"):
        shutil.rmtree(replaced)


def _quietly(action: Callable[[], object]) -> None:
    """Read or write without torch's warning; Ctrl-C, which torch counts among the failures, stays what it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        try:
            action()
        except CheckpointException as error:
            stopped = [failure for failure, _ in error.failures.values() if isinstance(failure, KeyboardInterrupt)]
            if stopped:
                raise stopped[0] from error
            raise


def _reason(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        rank, (first, _) = next(iter(error.failures.items()))
        return f"process {rank}: {type(first).__name__}: {first}"
    return str(error) if isinstance(error, TalkbenchError) else f"{type(error).__name__}: {error}"


def _still_there(folder: Path) -> str:
    whole = _whole(folder)
    return f"{whole[-1].name} is as it was." if whole else "There is no earlier checkpoint."
