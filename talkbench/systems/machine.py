"""What systems are run with, and what they lack: GPUs, host memory, Python modules, weight folders."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from talkbench.config import visible_gpus, weights_folder
from talkbench.errors import PrerequisiteError
from talkbench.provenance import gpus
from talkbench.systems.spec import SystemSpec, WeightFolder, option_for
from talkbench.workers import checkout, envs

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Machine:
    """What systems are run with.

    Attributes:
        weights: Folder with the weight folders that systems name.
        gpus: GPUs to use, as `CUDA_VISIBLE_DEVICES` names them.
        ram_gigabytes: Host memory that may be used; infinite if nobody says.
    """

    weights: Path
    gpus: tuple[str, ...]
    ram_gigabytes: float = math.inf

    @classmethod
    def this(cls, *, weights_dir: Path | None = None, num_gpus: int | None = None) -> Machine:
        """Return this machine, with all its visible GPUs or the first `num_gpus` of them.

        Raises:
            PrerequisiteError: If it has fewer.
        """
        visible = visible_gpus(len(gpus()))
        if num_gpus is not None and num_gpus > len(visible):
            raise PrerequisiteError(f"{num_gpus} GPUs were asked for, {len(visible)} are visible here (nvidia-smi).")
        weights = weights_dir.expanduser().resolve() if weights_dir else weights_folder()
        return cls(weights, tuple(visible[:num_gpus]), ram_gigabytes())

    def imagined(self, num_gpus: int | None) -> Machine:
        """Return what a plan is made for: this machine, or one with more GPUs, of whose memory nothing is known."""
        if num_gpus is None or num_gpus <= len(self.gpus):
            return replace(self, gpus=self.gpus[:num_gpus])
        return replace(self, gpus=tuple(str(number) for number in range(num_gpus)), ram_gigabytes=math.inf)

    def lacks(self, spec: SystemSpec) -> list[str]:
        """Return what a system needs and this machine does not have, one sentence each."""
        needs, found = spec.needs, []
        absent = [name for name in needs.modules if find_spec(name) is None]
        if absent:
            how = f": {needs.install}" if needs.install else "."
            found.append(f"Python modules {', '.join(absent)} are not installed{how}")
        if needs.gpus > len(self.gpus):
            found.append(f"it needs {needs.gpus} GPU(s), {len(self.gpus)} can be used here (nvidia-smi).")
        if (needs.ram_gigabytes or 0.0) > self.ram_gigabytes:
            found.append(
                f"it needs {needs.ram_gigabytes:g} GB of host memory, this machine has {self.ram_gigabytes:.0f} GB."
            )
        return found + self.lacks_code(spec) + self.lacks_weights(spec)

    def lacks_code(self, spec: SystemSpec) -> list[str]:
        """Return what is missing of a system's environment and of the checkout of its official code."""
        recipe, code = spec.recipe(self.weights), spec.checkout(self.weights)
        told = (recipe and envs.lacking(recipe), code and checkout.lacking(code))
        return [sentence for sentence in told if sentence]

    def lacks_weights(self, spec: SystemSpec) -> list[str]:
        """Return which weight files of a system are not here, one sentence per folder."""
        found = []
        for group in self.missing_folders(spec):
            folder = self.weights / group.folder
            missing = [name for name in group.files if not (folder / name).is_file()]
            found.append(
                f"{folder} lacks {', '.join(missing[:3])}{' ...' if missing[3:] else ''} "
                f"(about {group.about_gigabytes:g} GB, {group.licence}): get {group.url}, "
                "or name the folder that has it with --weights-dir."
            )
        return found

    def missing_folders(self, spec: SystemSpec) -> list[WeightFolder]:
        """Return the weight folders of a system of which a file is not here."""
        return [
            group
            for group in spec.needs.weights
            if not all((self.weights / group.folder / name).is_file() for name in group.files)
        ]

    def require(self, spec: SystemSpec) -> None:
        """Refuse a system that cannot run here.

        Raises:
            PrerequisiteError: With everything that is missing.
        """
        lacking = self.lacks(spec)
        if lacking:
            listed = "".join(f"\n  {sentence}" for sentence in lacking)
            then = f"talkbench system check {spec.name}{option_for(self.weights)}"
            raise PrerequisiteError(f"{spec.name} cannot run here:{listed}\nThen: {then}")


def ram_gigabytes() -> float:
    """Return the host memory that this process may use, in 10^9 bytes: what is installed, or its control group's."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):  # no control groups, or "max"
        limit = installed
    return min(installed, limit) / 1e9
