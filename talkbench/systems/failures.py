"""Why a clip could not be made, in a word, and whether trying again can help.

The words of a worker (`talkbench.workers.host`), made finer where the system or the acceptance check says more:

    no-handshake, crashed, timeout, error, protocol    as the host says
    no-face, oom-gpu, no-output, ...                   an `error` that begins with its kind (baselines/common.py)
    wrong-length, blank, ...                           a `bad-output`: the clip was refused (talkbench.workers.accept)
    bad-item                                           a file of the item is missing, or another than the manifest's
    host                                               this machine failed: a full disk, a folder without permission
    unsupported                                        the adapter says that the system cannot do it (not an attempt)
    needs-memory                                       more host memory than any machine of the request has (neither)
    not-tried                                          the system did not start for the clips before (neither)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from talkbench.workers.host import WorkerFailedError

UNSUPPORTED, NEEDS_MEMORY, NOT_TRIED = "unsupported", "needs-memory", "not-tried"
REFUSALS = (UNSUPPORTED, NEEDS_MEMORY)
"""Nothing was tried: what is refused is asked again every time, since limits and machines change."""

TRANSIENT = ("crashed", "timeout", "no-handshake")
"""What another attempt at the same clip may not meet again."""

_KIND = re.compile(r"(?:\w+Error: )?([a-z][a-z0-9]*(?:-[a-z0-9]+)*): ")
_CHECK = re.compile(r"\[([a-z][a-z0-9-]*)\]\s*$")


@dataclass(frozen=True)
class Failure:
    """Why there is no clip.

    Attributes:
        reason: One of the words above.
        message: What happened.
        last_words: The end of what the system printed.
        may_pass: Whether another attempt can end otherwise.
    """

    reason: str
    message: str
    last_words: tuple[str, ...] = ()
    may_pass: bool = False

    def __str__(self) -> str:
        return self.message + "".join(f"\n    | {line}" for line in self.last_words)


def explain(error: Exception) -> Failure:
    """Return what an exception of `Station.make` means."""
    if isinstance(error, WorkerFailedError):
        return Failure(_word(error), str(error), error.last_words, error.reason in TRANSIENT)
    reason = "host" if isinstance(error, OSError) else "bad-item"
    return Failure(reason, f"{type(error).__name__}: {error}")


def _word(error: WorkerFailedError) -> str:
    found = {"error": _KIND.match, "bad-output": _CHECK.search}.get(error.reason, lambda _: None)(error.message)
    return found[1] if found else error.reason
