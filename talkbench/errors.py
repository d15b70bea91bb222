"""What can go wrong, as types. User mistakes print one message and no traceback; bugs keep theirs."""

from __future__ import annotations

from typing import ClassVar, Literal


class TalkbenchError(Exception):
    """A mistake the user can fix; the message names the thing and the next command."""

    exit_code: ClassVar[int] = 2


class PrerequisiteError(TalkbenchError):
    """Something the machine lacks (a package, a device, disk space)."""

    exit_code: ClassVar[int] = 4


class Interrupted(TalkbenchError):  # noqa: N818 - the user stopped it; nothing is wrong
    """The user pressed Ctrl-C."""

    exit_code: ClassVar[int] = 130


class Unscorable(Exception):  # noqa: N818 - it reports a property of the clip, not an error of ours
    """A clip that defeats a metric (no face, no audio, one frame); becomes a row, never a crash.

    Args:
        reason: Short, stable slug for grouping, e.g. ``no-audio``.
        message: One sentence with the numbers: what was found, what was needed.
    """

    status: ClassVar[Literal["unscorable", "failed", "skipped"]] = "unscorable"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class NotApplicable(Unscorable):
    """A metric that has no business with this clip (no timing events, no ground truth); not counted as a gap."""

    status = "skipped"


class Undecodable(Unscorable):
    """A file without usable frames; every metric fails with the same reason."""

    status = "failed"
