"""Weight files from their official addresses: resumed after any interruption, verified before they get their name.

What arrives is appended to ``<name>.part`` (see `download`); the file gets its name only once its size and digest are
right, and a record beside it says where it came from. A file that is already there is never replaced.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from talkbench import atomic
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.ids import sha256_file
from talkbench.progress import Progress, Silent
from talkbench.weights import store
from talkbench.weights.catalog import Entry
from talkbench.weights.download import Download, NotThere, Sleep
from talkbench.weights.read import INDEXES, SINGLES, BadWeights, indexed, inspect


def require_at_hand(wanted: Sequence[Entry], weights_dir: Path | None) -> None:
    """Check that all entries are on this machine, without touching the network.

    Raises:
        PrerequisiteError: If one is missing; lists all that are, with their addresses.
    """
    absent = [entry for entry in wanted if store.find(entry, weights_dir) is None]
    if absent:
        lines = [f"  {entry.name}: {entry.file} from {' or '.join(entry.urls) or 'the package'}" for entry in absent]
        raise PrerequisiteError(
            "offline, and these weights are missing:\n" + "\n".join(lines) + "\nOn a machine with a network run "
            f"`talkbench weights fetch {' '.join(entry.name for entry in absent)} --weights-dir FOLDER`, copy FOLDER "
            "here, and name it with --weights-dir."
        )


def require_consent(wanted: Sequence[Entry], *, accept_licence: bool) -> None:
    """Check that the user agrees to the terms of all files that are not free for commercial use.

    Raises:
        TalkbenchError: If not; states the terms.
    """
    asked = [entry for entry in wanted if entry.non_commercial]
    if asked and not accept_licence:
        terms = "\n".join(f"  {entry.name}, {entry.licence}: {entry.licence_note}" for entry in asked)
        raise TalkbenchError(f"these terms ask for your consent:\n{terms}\nIf you agree, add --accept-licence.")


def fetch(
    entry: Entry,
    folder: Path,
    *,
    accept_licence: bool,
    progress: Progress | None = None,
    sleep: Sleep = time.sleep,
) -> Path:
    """Fetch one catalog entry into a folder, going on where an earlier try ended; return the file or folder.

    Args:
        entry: What to fetch.
        folder: Where to; created if absent.
        accept_licence: The user agrees to the terms of a file that is not free for commercial use.
        progress: Told about every megabyte.
        sleep: Waits some seconds between tries.

    Raises:
        PrerequisiteError: If the disk is full or closed to us, or the server cannot be reached.
        BadWeights: If what arrived is not the released file; it is removed.
        TalkbenchError: If the licence is not accepted, another file of that name is there, or another process is
            fetching the same.
    """
    if not entry.urls:
        raise TalkbenchError(f"{entry.name} comes with talkbench; there is nothing to fetch.")
    require_consent([entry], accept_licence=accept_licence)
    try:
        with atomic.lock(folder / f".{entry.file}.lock", wait=False) as free:
            if not free:
                raise TalkbenchError(
                    f"another process is fetching {entry.name} into {folder}; run this again after it."
                )
            return _Fetch(entry, folder / entry.file, progress or Silent(), sleep).run()
    except OSError as error:
        raise PrerequisiteError(f"cannot write {entry.file} into {folder}: {error.strerror or error}.") from error


class _Fetch:
    """One entry on its way into `target`; its record grows with every file that arrives."""

    def __init__(self, entry: Entry, target: Path, progress: Progress, sleep: Sleep) -> None:
        self._target = target
        self._entry, self._progress, self._sleep = entry, progress, sleep
        self._arrived = dict(store.read_record(target).files)

    def run(self) -> Path:
        """Fetch what is not there yet; return the file or folder."""
        if self._entry.is_folder:
            self._folder()
        else:
            self._file(self._target, self._entry.urls)
        return self._target

    def _folder(self) -> None:
        """Fetch the parts of a sharded checkpoint, its index, and what the index lists."""
        for name in self._entry.parts:
            self._member(name)
        first = self._first_of((*INDEXES, *SINGLES))
        if first.name in INDEXES:
            for name in indexed(first):
                self._member(name)

    def _file(self, path: Path, urls: Sequence[str]) -> None:
        """Fetch one file from the first address that has it, unless it is there already.

        Raises:
            NotThere: If no address has it.
        """
        if path.exists():
            self._check_present(path)
            return
        part = path.with_name(f"{path.name}.part")
        for url in urls:
            try:
                Download(url, part, self._progress, self._sleep).run()
            except NotThere:
                if url == urls[-1]:
                    raise
                continue
            self._accept(part, path, url)
            return

    def _member(self, name: str) -> Path:
        path = self._target / name
        self._file(path, [f"{base}/{name}" for base in self._entry.urls])
        return path

    def _first_of(self, names: Sequence[str]) -> Path:
        here = next((name for name in names if (self._target / name).exists()), None)
        for name in [here] if here else names:
            try:
                return self._member(name)
            except NotThere:
                continue
        raise TalkbenchError(f"{self._entry.urls[0]} has none of {', '.join(names)}: the checkpoint has moved.")

    def _check_present(self, path: Path) -> None:
        inspect(path)
        found = store.sha256_of(path)
        noted = self._arrived.get(path.name)
        if not (self._entry.vouches(found) or (noted is not None and noted.sha256 == found)):
            raise TalkbenchError(
                f"{path} (sha256 {found}) is there already, but it is not known to be the released file. "
                f"Move it away, then run `talkbench weights fetch {self._entry.name}` again."
            )

    def _accept(self, part: Path, path: Path, url: str) -> None:
        try:
            inspect(part)
        except BadWeights as error:
            part.unlink()
            raise BadWeights(f"{url} gave something else than the file, which was removed: {error}") from error
        found = sha256_file(part)
        if self._entry.sha256 is not None and not self._entry.vouches(found):
            part.unlink()
            raise BadWeights(
                f"{url} gave a file with sha256 {found}, but {self._entry.source} states {self._entry.sha256}. "
                "The file was removed: the download was altered on its way, or the official file has changed."
            )
        # The record first: a file without one would count as unverified for ever.
        self._arrived[path.name] = store.FetchedFile(url=url, size_bytes=part.stat().st_size, sha256=found)
        record = store.FetchRecord(files=self._arrived)
        atomic.write_text(store.record_path(self._target), record.model_dump_json(indent=1))
        part.replace(path)
        store.remember(path, found)
