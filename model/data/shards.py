"""Encoded clips on disk: shards of safetensors, and an index of what they hold.

    FOLDER/header.json              what the clips were encoded with, and the command that made them
    FOLDER/null_text.safetensors    text tokens of the prompt that stands for no text
    FOLDER/shards/00000.safetensors tensors "<sample id>/<field>" of a few clips
    FOLDER/shards/00000.jsonl       entries of these, and clips that were refused; with it a shard is complete
    FOLDER/index.jsonl              the entries of all shards; written last of all
    FOLDER/rejections.jsonl         the refused clips, with reasons
    FOLDER/truth.jsonl              of drawn clips: what they show

Every file appears whole or not at all. What a shard holds depends on its number alone, so shards can be written in any
order, by several processes, and again after a run was killed: the bytes are the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import save
from torch import Tensor

from talkbench import atomic
from talkbench.errors import TalkbenchError
from talkbench.ids import canonical_json

from .. import PACKAGE
from .sample import Sample

VERSION = 1
HEADER, INDEX, REJECTIONS, TRUTH = "header.json", "index.jsonl", "rejections.jsonl", "truth.jsonl"
NULL_TEXT = "null_text.safetensors"
SHARDS = "shards"
NULL_TEXT_NAME = "text_LC"


@dataclass(frozen=True)
class Header:
    """What all samples of a folder have in common.

    Attributes:
        encoders: Part of the recipe, or the weights -> digest; training checks that they are its own.
        chunks: Chunks that every sample covers.
        clips: Digest of the clips asked for, in order, and how they were chosen.
        num_shards: Files that they are spread over.
        command: What to run again, but for the folder, if something is missing.
    """

    encoders: dict[str, str]
    chunks: int
    clips: str
    num_shards: int
    command: str

    @classmethod
    def read(cls, folder: Path) -> Header:
        """Return the header of a folder.

        Raises:
            TalkbenchError: If there is none, or it is of another version.
        """
        path = folder / HEADER
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
            version = stated.pop("version")
        except FileNotFoundError as error:
            prepare = f"`python -m {PACKAGE}.data.prepare --source tiny --out {folder}`"
            raise TalkbenchError(f"{folder} holds no encoded clips: no {HEADER}. Make some, e.g. {prepare}.") from error
        except (OSError, ValueError, AttributeError, KeyError) as error:
            raise TalkbenchError(f"{path} cannot be read: {error!r}. Prepare the data into an empty folder.") from error
        if version != VERSION:
            raise TalkbenchError(f"{path} has version {version}, this program reads {VERSION}. Prepare the data again.")
        return cls(**stated)

    def write(self, folder: Path) -> None:
        """Write the header, or check that it is the one there.

        Raises:
            TalkbenchError: If the folder holds something else; names what differs.
        """
        if not (folder / HEADER).exists():
            atomic.write_text(folder / HEADER, json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n")
            return
        there = Header.read(folder)
        names = [each.name for each in fields(self) if each.name != "command"]
        if differing := [name for name in names if getattr(there, name) != getattr(self, name)]:
            raise TalkbenchError(
                f"{folder} was begun with another {', '.join(differing)}. "
                f"Choose another --out, or go on with what began it:\n  {there.rebuild(folder)}"
            )

    def rebuild(self, folder: Path) -> str:
        """Return the command that makes what is missing in a folder."""
        return f"{self.command} --out {folder}"


@dataclass(frozen=True)
class Entry:
    """What the index says about a sample.

    Attributes:
        id: Of the sample.
        shard: Number of its file.
        chunks: Chunks it covers.
        bucket: Size of its picture, ``HxW`` in pixels.
        source: Key of the video it comes from.
        person: Key of the person.
        digest: xxh3-128 of its tensors.
    """

    id: str
    shard: int
    chunks: int
    bucket: str
    source: str
    person: str
    digest: str


@dataclass(frozen=True)
class Rejection:
    """A clip that was asked for and not encoded.

    Attributes:
        id: Of the clip.
        reason: Short, stable slug.
        message: What was found, what was needed.
    """

    id: str
    reason: str
    message: str


@dataclass(frozen=True)
class Encoded:
    """A sample on its way to a shard.

    Attributes:
        sample: The tensors.
        bucket: Size of its picture, ``HxW``.
        source: Key of the video.
        person: Key of the person.
        truth: What a drawn clip shows, by name; nothing of a real one.
    """

    sample: Sample
    bucket: str
    source: str
    person: str
    truth: Mapping[str, Any] = field(default_factory=dict)


def shard_path(folder: Path, number: int) -> Path:
    """Return where the tensors of a shard lie."""
    return folder / SHARDS / f"{number:05}.safetensors"


def is_complete(folder: Path, number: int) -> bool:
    """Return whether a shard needs no writing."""
    path = shard_path(folder, number)
    return path.is_file() and path.with_suffix(".jsonl").is_file()


def write_shard(folder: Path, number: int, outcomes: Iterable[Encoded | Rejection]) -> None:
    """Write the clips of a shard, and what became of the others."""
    tensors: dict[str, Tensor] = {}
    lines: list[str] = []
    for outcome in outcomes:
        if isinstance(outcome, Rejection):
            lines.append(canonical_json({"rejected": asdict(outcome)}))
            continue
        sample = outcome.sample
        # Clips with one prompt share its tensor, which a file cannot.
        own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in sample.tensors().items()}
        tensors |= {f"{sample.id}/{name}": tensor for name, tensor in own.items()}
        entry = Entry(sample.id, number, sample.chunks, outcome.bucket, outcome.source, outcome.person, digest_of(own))
        lines.append(canonical_json({"sample": asdict(entry), "truth": dict(outcome.truth)}))
    path = shard_path(folder, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, save(tensors))
    atomic.write_text(path.with_suffix(".jsonl"), "".join(f"{line}\n" for line in lines))


def write_null_text(folder: Path, text_LC: Tensor) -> None:
    """Write the text tokens that stand for no text."""
    atomic.write_bytes(folder / NULL_TEXT, save({NULL_TEXT_NAME: text_LC.cpu().contiguous()}))


def finish(folder: Path, header: Header) -> Counter[str]:
    """Write the index over all shards; return how many clips there are by outcome: ``encoded``, or why not.

    Raises:
        TalkbenchError: If a shard is missing.
    """
    outcomes: Counter[str] = Counter()
    with (
        atomic.replacing(folder / INDEX) as index,
        atomic.replacing(folder / REJECTIONS) as rejections,
        atomic.replacing(folder / TRUTH) as truths,
    ):
        for number in range(header.num_shards):
            for line in _shard_lines(folder, number, header):
                if (rejected := line.get("rejected")) is not None:
                    outcomes[rejected["reason"]] += 1
                    rejections.write(canonical_json(rejected) + "\n")
                    continue
                outcomes["encoded"] += 1
                index.write(canonical_json(line["sample"]) + "\n")
                if line["truth"]:
                    truths.write(canonical_json({"id": line["sample"]["id"], **line["truth"]}) + "\n")
    return outcomes


def _shard_lines(folder: Path, number: int, header: Header) -> Iterator[dict[str, Any]]:
    path = shard_path(folder, number).with_suffix(".jsonl")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TalkbenchError(f"{path} is missing. Make it again with\n  {header.rebuild(folder)}") from error
    yield from map(json.loads, text.splitlines())


def read_index(folder: Path) -> list[Entry]:
    """Return the entries of a complete folder.

    Raises:
        TalkbenchError: If it is not complete, or the index is damaged; names the command that makes it again.
    """
    path = folder / INDEX
    try:
        return [Entry(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        again = Header.read(folder).rebuild(folder)
        raise TalkbenchError(f"{folder} is not complete: no {INDEX}. Go on with\n  {again}") from error
    except (ValueError, TypeError) as error:
        again = Header.read(folder).rebuild(folder)
        raise TalkbenchError(f"{path} cannot be read: {error}. Make it again with\n  {again}") from error


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return xxh3-128 over names, types, shapes and bytes, in order of the names."""
    total = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()
