"""One registry for everything that has a name: lazy built-ins, entry points, suggestions on a miss.

Names can be listed without importing the code behind them. A plug-in package adds an entry point to the group
`talkbench.metrics`; a broken plug-in is a warning, never a crash. Systems, commands and summaries have groups of their
own (`talkbench.systems`, `talkbench.commands`, `talkbench.summary`).
"""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

from talkbench.errors import TalkbenchError

_log = logging.getLogger(__name__)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


class Registry:
    """Maps names to objects that are imported on first use.

    Args:
        kind: What the names are, for messages: ``metric``, ``system``.
        builtin: Name -> ``module:attribute``.
        group: Entry-point group of plug-ins; their names may not replace built-in ones.
        list_command: The command that prints the known names.
    """

    def __init__(self, kind: str, builtin: dict[str, str], group: str, list_command: str) -> None:
        self._kind = kind
        self._paths = dict(builtin)
        self._group = group
        self._list_command = list_command
        self._loaded: dict[str, Any] = {}
        self._plugins_read = False

    def names(self) -> tuple[str, ...]:
        """Return every known name, built-in first."""
        self._read_plugins()
        return tuple(self._paths)

    def get(self, name: str) -> Any:
        """Return the object behind `name`.

        Raises:
            TalkbenchError: If nobody registered `name`, or its plug-in cannot be imported.
        """
        self._read_plugins()
        if name not in self._paths:
            raise TalkbenchError(
                f"unknown {self._kind} {name!r}.{suggest(name, self._paths)} "
                f"Known: {', '.join(sorted(self._paths))} (`{self._list_command}`)."
            )
        if name not in self._loaded:
            module, _, attribute = self._paths[name].partition(":")
            try:
                self._loaded[name] = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise TalkbenchError(
                    f"{self._kind} {name!r} ({self._paths[name]}) cannot be imported: {error}. "
                    "Reinstall or remove the package that provides it."
                ) from error
        return self._loaded[name]

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        self._plugins_read = True
        for point in entry_points(group=self._group):
            if point.name in self._paths:
                if self._paths[point.name] != point.value:
                    _log.warning("plug-in %s tried to replace the built-in %s %r", point.value, self._kind, point.name)
                continue
            self._paths[point.name] = point.value
