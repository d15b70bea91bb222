"""What a build has chosen and what could be had of it: the records that stages hand to each other, and their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from talkbench.data import placing
from talkbench.data.folder import Build, read_lines
from talkbench.data.manifest import Availability, Checked, Selected
from talkbench.data.placing import Key
from talkbench.errors import TalkbenchError
from talkbench.ids import digest

Section = tuple[str, float, float]
"""Source key, start and end in its seconds."""


def load_selection(build: Build) -> list[Selected]:
    """Return accepted clips and reserve.

    Raises:
        TalkbenchError: If there is no selection, or it is not one of this version.
    """
    return [checked(Selected, entry, build.selection) for entry in read_lines(build.selection, "talkbench data select")]


def load_snapshot(build: Build) -> list[Availability]:
    """Return the frozen availability.

    Raises:
        TalkbenchError: If nothing was frozen yet.
    """
    return [
        checked(Availability, entry, build.snapshot) for entry in read_lines(build.snapshot, "talkbench data fetch")
    ]


def load_checked(build: Build) -> dict[str, Checked]:
    """Return what networks measured, by the digest of the media; empty if nothing was checked yet.

    Raises:
        TalkbenchError: If the file is not one of this version.
    """
    if not build.checked.is_file():
        return {}
    records = [checked(Checked, entry, build.checked) for entry in read_lines(build.checked, "talkbench data check")]
    return {record.media: record for record in records}


def frozen(build: Build, selection: Sequence[Selected]) -> dict[Key, Availability]:
    """Return the frozen availability of a selection, by clip.

    Raises:
        TalkbenchError: If nothing was frozen, or for another selection.
    """
    states = about(selection, load_snapshot(build))
    usable = {key: state.status == "available" for key, state in states.items()}
    for placed in placing.place(selection, usable):
        if placed.entry is not None and placing.key(placed.entry) not in states:
            raise TalkbenchError(
                f"{build.snapshot} does not know {placed.entry.clip_id} of {build.selection}: they belong to different "
                "builds; give another --out and run `talkbench data select` and `fetch` again."
            )
    return states


def about(selection: Sequence[Selected], states: Iterable[Availability]) -> dict[Key, Availability]:
    """Return the last state of each clip that is about the sections selected now; another window is another matter."""
    now = {placing.key(entry): sections_digest(entry) for entry in selection}
    keyed = (((state.tier, state.dataset, state.clip_id), state) for state in states)
    return {key: state for key, state in keyed if state.sections is not None and state.sections == now.get(key)}


def load_attempts(build: Build, selection: Sequence[Selected]) -> dict[Key, Availability]:
    """Return what earlier runs of `fetch` settled about a selection, by clip.

    Raises:
        TalkbenchError: If nothing was tried yet, or a record is not one of this version.
    """
    records = read_lines(build.attempts, "talkbench data fetch")
    return about(selection, (checked(Availability, each, build.attempts) for each in records if "status" in each))


def sections(entry: Selected) -> tuple[Section, ...]:
    """Return the pieces that are heard, in order, and the reference clip."""
    reference = entry.references[0]
    return (
        *((entry.source_key, piece.start, piece.end) for piece in entry.segments),
        (reference.source_key, reference.start, reference.end),
    )


def sections_digest(entry: Selected) -> str:
    """Return what tells an entry from one with the same clip but other sections."""
    return digest([list(section) for section in sections(entry)])


def pieces(build: Build, entry: Selected) -> tuple[Path, ...]:
    """Return where the sections of an entry lie once they are fetched: those that are heard, then the reference."""
    return tuple(build.media / f"{digest(list(section))[:32]}.mkv" for section in sections(entry))


def media_digest(sha256s: Sequence[str]) -> str:
    """Return the name under which measurements of an entry's files are kept."""
    return digest(list(sha256s))


def checked(model: Any, entry: Any, path: Path) -> Any:
    """Return a record of a file as its model.

    Raises:
        TalkbenchError: With file, field and value, if it is none.
    """
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(map(str, first["loc"]))
        raise TalkbenchError(f"{path}: {field_name}: {first['msg']} (found {first.get('input')!r:.60}).") from error
