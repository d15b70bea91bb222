"""Which systems there are: known-answer ones, and those that an adapter describes.

Adapters are found in installed packages (entry points of the group `talkbench.systems`, whose value is the package
that holds `adapter.yaml`; the package is not imported), in `baselines/` of a checkout, or by the path of the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from talkbench.errors import TalkbenchError
from talkbench.registry import suggest
from talkbench.systems.known import SYSTEMS, KnownSystem
from talkbench.systems.spec import SystemSpec, read

_log = logging.getLogger(__name__)

ADAPTER = "adapter.yaml"
GROUP = "talkbench.systems"
System = KnownSystem | SystemSpec


def adapters() -> dict[str, SystemSpec]:
    """Return the systems of all adapters found; a broken adapter is a warning that names it."""
    taken = {system.name for system in SYSTEMS} | {"known"}
    found: dict[str, SystemSpec] = {}
    for origin, path in _files():
        try:
            specs = read(path)
        except TalkbenchError as error:
            _log.warning("the systems of %s are not available: %s", origin, error)
            continue
        for spec in specs:
            if spec.name in taken or spec.name in found:
                _log.warning("system %r of %s has the name of another one and is not available", spec.name, origin)
            else:
                found[spec.name] = spec
    return found


def select(names: Sequence[str]) -> tuple[System, ...]:
    """Return the systems that `names` stand for, each once.

    Args:
        names: Names, or comma-separated lists of them; ``known`` stands for all known-answer systems, the path of an
            adapter.yaml for those that it describes.

    Raises:
        TalkbenchError: If a name is unknown, or an adapter given by path is wrong.
    """
    chosen: dict[str, System] = {}
    for name in [part.strip() for entry in names for part in entry.split(",") if part.strip()]:
        for system in _named(name):
            if chosen.setdefault(system.name, system) != system:
                raise TalkbenchError(f"two different systems are called {system.name!r}; choose one of them.")
    return tuple(chosen.values())


def _named(name: str) -> Sequence[System]:
    if name == "known":
        return SYSTEMS
    if name.endswith((".yaml", ".yml")):
        return read(Path(name))
    known: dict[str, System] = {system.name: system for system in SYSTEMS}
    if name in known:
        return (known[name],)
    found = adapters()
    if name in found:
        return (found[name],)
    every = [*known, *found]
    raise TalkbenchError(
        f"unknown system {name!r}.{suggest(name, every)} Known: {', '.join(every)}; `known` is all known-answer "
        "systems (`talkbench system list`), or give the path of an adapter.yaml."
    )


def _files() -> Iterator[tuple[str, Path]]:
    """Yield where an adapter comes from, and its file."""
    for point in entry_points(group=GROUP):
        origin = f"plug-in {point.name!r} ({point.value})"
        try:
            package = find_spec(point.value)
        except (ImportError, ValueError) as error:
            _log.warning("the systems of %s are not available: %s", origin, error)
            continue
        places = list(package.submodule_search_locations or ()) if package is not None else []
        if not places:
            _log.warning("the systems of %s are not available: no such package", origin)
            continue
        yield origin, Path(places[0]) / ADAPTER
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file():
        for path in sorted((root / "baselines").glob(f"*/{ADAPTER}")):
            yield str(path), path
