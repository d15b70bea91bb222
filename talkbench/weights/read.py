"""Weight files become tensors by name; nothing in them is executed.

state = read.state_dict(path)          # .pth, .pt, .model, .bin, .safetensors, TorchScript archive
read.load_strict(net, state, path)     # every tensor of the network, and no other
for name, tensor in read.shards(folder): ...   # a sharded checkpoint, one tensor at a time
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkbench.errors import TalkbenchError
from talkbench.weights.containers import ZIP_ERRORS, PickleFile, open_pickle
from talkbench.weights.pickles import Damaged, Record, as_mapping

if TYPE_CHECKING:
    import torch
    from torch import nn

WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts put the weights beside everything else."""

INDEXES = (
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
SINGLES = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin")

_NUMBER = re.compile(r"\.(\d+)\.")
_NEXT = "Compare it with the catalog: `talkbench weights verify`."


class BadWeights(TalkbenchError):  # noqa: N818 - names the state of a file
    """A weight file that is not whole, or not the weights it should be."""


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a weight file by name, on the CPU, in the file's own precision.

    Wrappers (``state_dict``, ``model``) are taken off, whatever lies beside the tensors is dropped, and a leading
    ``module.`` goes if every name has it. Tensors of a TorchScript archive are named by the path of module attributes
    that leads to them (``visual.conv1.weight``).

    Raises:
        BadWeights: If the file is absent, damaged, a web page, or holds no tensors.
    """
    state = dict(_tensors(path))
    if not state:
        raise BadWeights(f"{path} holds no tensors by name: it is not a weight file. {_NEXT}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def shards(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a checkpoint folder with their names, one at a time.

    Raises:
        BadWeights: If the folder holds no checkpoint, a part of it is absent, or a file is damaged.
    """
    for path in shard_files(folder):
        yield from _tensors(path, one_at_a_time=True)


def shard_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that hold the tensors of a checkpoint folder, safetensors before pickles, sorted.

    Raises:
        BadWeights: If there are none, or some that the index lists are absent.
    """
    for name in INDEXES:
        if (folder / name).is_file():
            listed = [folder / part for part in indexed(folder / name)]
            if absent := [path.name for path in listed if not path.is_file()]:
                raise BadWeights(f"{folder} is incomplete: {name} lists {', '.join(absent)}, not found. {_NEXT}")
            return tuple(listed)
    for name in SINGLES:
        if (folder / name).is_file():
            return (folder / name,)
    raise BadWeights(f"{folder} holds no checkpoint: none of {', '.join([*INDEXES, *SINGLES])} is there. {_NEXT}")


def indexed(index: Path) -> tuple[str, ...]:
    """Return the file names that an index of shards lists, sorted.

    Raises:
        BadWeights: If it cannot be read, or names a file outside its folder.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadWeights(
            f"{index} is not an index of weight files ({type(error).__name__}: {error}). {_NEXT}"
        ) from error
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise BadWeights(f"{index} is not an index of weight files: it lists {names!r:.100}. {_NEXT}")
    return tuple(names)


def load_strict(net: nn.Module, state: Mapping[str, torch.Tensor], path: Path, ignore: Sequence[str] = ()) -> None:
    """Copy tensors into a network by name; every tensor of the network must be there and no other.

    Batch counters (``num_batches_tracked``) may be absent: files older than torch 0.4.1 have none, and nothing reads
    them in evaluation mode.

    Args:
        net: Keeps its own precision; numbers are converted.
        state: Tensors by name, of `state_dict`.
        path: Where they came from, for the message.
        ignore: Patterns (``text.*``) of names that the file may have and the network not.

    Raises:
        BadWeights: If names or shapes differ.
    """
    import torch

    own = net.state_dict(keep_vars=True)
    wanted = {name: tensor.shape for name, tensor in own.items()}
    refuse_mismatch(type(net).__name__, wanted, {name: t.shape for name, t in state.items()}, path, ignore)
    with torch.no_grad():
        for name, tensor in own.items():
            if name in state:
                tensor.copy_(state[name])


def refuse_mismatch(
    net: str,
    wanted: Mapping[str, Sequence[int]],
    found: Mapping[str, Sequence[int]],
    path: Path,
    ignore: Sequence[str] = (),
) -> None:
    """Compare the names and shapes of a network and a file; every difference is named.

    Raises:
        BadWeights: If there is one.
    """
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    extra = [name for name in found if name not in wanted and not any(fnmatchcase(name, each) for each in ignore)]
    shapes = {
        name: f" {list(found[name])} instead of {list(wanted[name])}"
        for name in wanted
        if name in found and list(found[name]) != list(wanted[name])
    }
    counts: list[tuple[str, Sequence[str], Mapping[str, str]]] = [
        ("missing", missing, {}), ("not expected", extra, {}), ("of another shape", list(shapes), shapes)
    ]  # fmt: skip
    if differences := [f"{len(names)} {what} ({_grouped(names, notes)})" for what, names, notes in counts if names]:
        raise BadWeights(
            f"{path} does not fit {net} ({len(wanted)} tensors): {'; '.join(differences)}. "
            f"Is this file another model? {_NEXT}"
        )


def inspect(path: Path) -> None:
    """Look at a file's ends: cheap enough to do before its digest is known.

    Raises:
        BadWeights: If it is empty, a web page, a pointer to the real file, or cut off.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise BadWeights(f"cannot read {path}: {error.strerror}. {_NEXT}") from error
    if not head:
        raise BadWeights(f"{path} is empty. Remove it and get it again: `talkbench weights fetch`.")
    if head.lstrip().startswith(b"<"):
        raise BadWeights(
            f"{path} is a web page, not weights: a download was answered by an error or log-in page. "
            "Remove it and get it again: `talkbench weights fetch`."
        )
    if head.startswith(b"version https://git-lfs"):
        raise BadWeights(f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` where it came from.")
    if head.startswith(b"PK"):
        try:
            zipfile.ZipFile(path).close()
        except ZIP_ERRORS as error:
            raise BadWeights(
                f"{path} is cut off or damaged: a zip without its list of contents ({path.stat().st_size} bytes). "
                "Remove it and get it again: `talkbench weights fetch`."
            ) from error


def _tensors(path: Path, *, one_at_a_time: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    inspect(path)
    if path.suffix == ".safetensors":
        yield from _safetensors(path)
        return
    try:
        with open_pickle(path) as file:
            file.one_at_a_time = one_at_a_time
            for name, record in _named(file):
                tensor = file.tensor(record)
                if tensor is not None:
                    yield name, tensor
                    del tensor
    except Damaged as error:
        raise BadWeights(f"{path} cannot be read as weights: {error}. {_NEXT}") from error


def _safetensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise BadWeights(f"{path} cannot be read as weights: {error}. {_NEXT}") from error


def _named(file: PickleFile) -> Iterator[tuple[str, Any]]:
    """Yield the tensor records of a file by name."""
    if isinstance(file.top, Record) and file.top.origin.startswith("__torch__"):
        yield from _attributes(file, file.top, "")
        return
    found = as_mapping(file.top)
    while found is not None and (inner := next((m for w in WRAPPERS if (m := as_mapping(found.get(w)))), None)):
        found = inner
    for name, value in (found or {}).items():
        if isinstance(name, str) and file.is_tensor(value):
            yield name, value


def _attributes(file: PickleFile, module: Record, prefix: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the tensors among the attributes of a TorchScript module, and of its sub-modules."""
    if depth > 100:
        raise Damaged("its modules contain each other")
    for name, value in (as_mapping(module.state) or {}).items():
        if file.is_tensor(value):
            yield f"{prefix}{name}", value
        elif isinstance(value, Record) and value.origin.startswith("__torch__"):
            yield from _attributes(file, value, f"{prefix}{name}.", depth + 1)


def _grouped(names: Sequence[str], notes: Mapping[str, str]) -> str:
    """Return all names, those that differ in one number only as one: ``blocks.{0-39}.norm.weight``."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for name in names:
        before, number, after = _numbered(name)
        groups.setdefault((before, after, notes.get(name, "")), []).append(number)
    return ", ".join(f"{before}{_ranges(numbers)}{after}{note}" for (before, after, note), numbers in groups.items())


def _numbered(name: str) -> tuple[str, int, str]:
    match = _NUMBER.search(name)
    return (name, -1, "") if match is None else (name[: match.start(1)], int(match[1]), name[match.end(1) :])


def _ranges(numbers: Sequence[int]) -> str:
    """Return ``7``, ``{0-3}`` or ``{0-3,5}``; nothing for a name without a number (-1)."""
    if list(numbers) == [-1]:
        return ""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return text if len(numbers) == 1 else "{" + text + "}"
