"""Where weight files lie on this machine, and whether they are the official ones.

Looked for in the folder the user names, then in the package, then in the cache that `talkbench weights fetch` fills.
A file counts as *released* if its digest is the published one, or, where none is published, the one recorded when
talkbench itself fetched it over https from its official address.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from talkbench import atomic
from talkbench.config import cache_folder
from talkbench.errors import TalkbenchError
from talkbench.ids import digest, sha256_file
from talkbench.weights.catalog import Entry, WeightFile, WeightsKind, catalog, entries
from talkbench.weights.read import BadWeights, inspect, shard_files

_log = logging.getLogger(__name__)

_ODD_SIZE = 0.05
"""Relative difference from the rounded published size that is worth a remark."""


@dataclass(frozen=True)
class Located:
    """What of the weights asked for is at hand.

    Attributes:
        files: Catalog name -> the file to use.
        missing: Catalog name -> one sentence: what is missing, where it was looked for, how to get it.
        damaged: Catalog name -> one sentence: which file is not what its name promises, and how to get it.
    """

    files: dict[str, WeightFile] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


class FetchedFile(BaseModel):
    """What `fetch` noted of one file when it arrived."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    size_bytes: int
    sha256: str


class FetchRecord(BaseModel):
    """Lies beside a fetched file or folder as ``<name>.fetched.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: dict[str, FetchedFile]


def locate(names: Iterable[str], *, weights_dir: Path | None, allow_unverified: bool, drawn: bool = False) -> Located:
    """Find weight files by catalog name.

    Args:
        names: Catalog names.
        weights_dir: Folder with files under their official names; looked at first.
        allow_unverified: Accept files whose origin nothing vouches for.
        drawn: The clips are talkbench-mini's: packaged mini-domain weights may take the place of missing ones.

    Raises:
        TalkbenchError: If a name is unknown, or nothing vouches for a file.
    """
    located = Located()
    refused = []
    for entry in entries(list(names)):
        at_hand = [(each, find(each, weights_dir)) for each in (entry, *(_stand_ins(entry) if drawn else ()))]
        chosen = next(((each, path) for each, path in at_hand if path is not None), None)
        if chosen is None:
            located.missing[entry.name] = missing_message(entry, weights_dir)
            continue
        try:
            found = located.files[entry.name] = examine(*chosen)
        except BadWeights as error:
            located.damaged[entry.name] = str(error)
            continue
        if found.kind == "unverified" and not allow_unverified:
            refused.append(unverified_message(entry, found))
    if refused:
        raise TalkbenchError(
            "\n".join(refused) + "\nTo use such files nevertheless, add --allow-unverified: their scores are marked "
            "and never share a column with scores from released weights."
        )
    return located


def _stand_ins(entry: Entry) -> tuple[Entry, ...]:
    return tuple(other for other in catalog().values() if other.stands_in_for == entry.name)


def find(entry: Entry, weights_dir: Path | None) -> Path | None:
    """Return where a catalog entry lies, None if nowhere.

    Raises:
        TalkbenchError: If `weights_dir` is not a folder.
    """
    for folder in _folders(entry, weights_dir):
        for name in (entry.file, *entry.aliases):
            path = folder / name
            if path.is_dir() if entry.is_folder else path.is_file():
                return path
    return None


def examine(entry: Entry, path: Path) -> WeightFile:
    """Return the digest of a file or folder, and whether it is the released one.

    Raises:
        BadWeights: If it is empty, a web page, cut off, or an incomplete folder.
    """
    if not entry.is_folder:
        inspect(path)
        sha256 = sha256_of(path)
        return WeightFile(entry.name, path, sha256, _kind(entry, path, {path.name: sha256}, sha256))
    digests = {}
    for file in folder_files(entry, path):
        inspect(file)
        digests[file.name] = sha256_of(file)
    sha256 = digest(digests)
    return WeightFile(entry.name, path, sha256, _kind(entry, path, digests, sha256))


def folder_files(entry: Entry, folder: Path) -> tuple[Path, ...]:
    """Return the files of a sharded checkpoint whose content matters: its parts and shards.

    Raises:
        BadWeights: If one is absent.
    """
    parts = [folder / part for part in entry.parts]
    if absent := [part.name for part in parts if not part.is_file()]:
        get = f"talkbench weights fetch {entry.name}"
        raise BadWeights(f"{folder} is incomplete: no {', '.join(absent)}. Get it with `{get}`.")
    return (*parts, *shard_files(folder))


def fetched_folder() -> Path:
    """Return the folder that `talkbench weights fetch` fills."""
    return cache_folder() / "weights"


def record_path(path: Path) -> Path:
    """Return where `fetch` notes what it got as `path`."""
    return path.with_name(f"{path.name}.fetched.json")


def read_record(path: Path) -> FetchRecord:
    """Return what `fetch` noted of `path`; empty if it noted nothing readable."""
    try:
        return FetchRecord.model_validate_json(record_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return FetchRecord(files={})
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        _log.warning("%s is not readable and not used: %s", record_path(path), error)
        return FetchRecord(files={})


def missing_message(entry: Entry, weights_dir: Path | None) -> str:
    """Return one sentence: what is missing, where it was looked for, how to get it."""
    if entry.packaged:
        return f"{entry.file} is not in {_packaged()}: the installation is incomplete; install talkbench again."
    places = " or ".join(str(folder) for folder in _folders(entry, weights_dir))
    return (
        f"{entry.file} is not in {places}: get it with `talkbench weights fetch {entry.name}`, "
        "or name a folder that has it with --weights-dir."
    )


def unverified_message(entry: Entry, found: WeightFile) -> str:
    """Return what is known of a file that nothing vouches for, and what to do."""
    if entry.sha256 is not None:
        expected = f"but {entry.source} states {entry.sha256}: it is another file, or damaged"
    else:
        expected = "which nothing vouches for: no digest is published, and talkbench did not fetch it"
    size = sum(file.stat().st_size for file in (folder_files(entry, found.path) if entry.is_folder else [found.path]))
    if abs(size / 1e6 / entry.about_megabytes - 1) > _ODD_SIZE:
        expected += f" ({size / 1e6:.1f} MB instead of about {entry.about_megabytes:g} MB)"
    again = "Install talkbench again" if entry.packaged else f"Get it with `talkbench weights fetch {entry.name}`"
    return f"weights {entry.name}: {found.path} has sha256 {found.sha256}, {expected}. {again}."


def sha256_of(path: Path) -> str:
    """Return the digest of a file's bytes, from memory if the file has not changed since it was last read."""
    before = _stamp(path)
    known = _remembered().get(str(path.resolve()))
    if isinstance(known, dict) and known.get("stamp") == before:
        return str(known["sha256"])
    sha256 = sha256_file(path)
    if _stamp(path) == before:
        remember(path, sha256)
    return sha256


def remember(path: Path, sha256: str) -> None:
    """Note the digest of a file as it is now, for `sha256_of`."""
    try:
        with atomic.lock(_memory().with_suffix(".lock"), wait=True):
            known = {name: note for name, note in _remembered().items() if Path(name).is_file()}
            known[str(path.resolve())] = {"stamp": _stamp(path), "sha256": sha256}
            atomic.write_text(_memory(), json.dumps(known, indent=1, sort_keys=True))
    except OSError as error:
        _log.warning("cannot remember the digest of %s, it will be computed again: %s", path, error)


def _memory() -> Path:
    return fetched_folder() / "digests.json"


def _remembered() -> dict[str, Any]:
    try:
        known = json.loads(_memory().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning("%s is not readable and not used: %s", _memory(), error)
        return {}
    return known if isinstance(known, dict) else {}


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _folders(entry: Entry, weights_dir: Path | None) -> list[Path]:
    if weights_dir is not None and not weights_dir.is_dir():
        raise TalkbenchError(f"--weights-dir {weights_dir}: no such folder.")
    chosen = [weights_dir] if weights_dir is not None else []
    return [*chosen, _packaged() if entry.packaged else fetched_folder()]


def _packaged() -> Path:
    return Path(str(files("talkbench.weights"))) / "mini"


def _kind(entry: Entry, path: Path, digests: dict[str, str], sha256: str) -> WeightsKind:
    if entry.packaged:
        return "mini-domain" if entry.vouches(sha256) else "unverified"
    if entry.sha256 is not None:
        return "released" if entry.vouches(sha256) else "unverified"
    recorded = {
        name: file.sha256
        for beside in (path, fetched_folder() / entry.file)
        for name, file in read_record(beside).files.items()
        if file.url.startswith("https://") and file.url.startswith(entry.urls)
    }
    return "released" if all(recorded.get(name) == found for name, found in digests.items()) else "unverified"
