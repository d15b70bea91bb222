"""Where a number came from: code, packages, device, decoder build. Collected once per session."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from talkbench.ids import digest

SCORING_PACKAGES = ("talkbench", "av", "numpy", "pillow", "scipy", "torch", "transformers", "xxhash")
_SECRET = re.compile(r"(//)[^/@\s]+@|((?:token|key|password|secret)=)[^&\s]+", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Return `text` with user names, passwords and tokens in URLs replaced."""
    return _SECRET.sub(lambda match: f"{match.group(1) or match.group(2)}***", text)


@cache
def package_versions(names: tuple[str, ...] = SCORING_PACKAGES) -> dict[str, str]:
    """Return the installed versions of the packages that can move a score."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def decoder_build() -> dict[str, str]:
    """Return the FFmpeg library versions inside PyAV, which decide what the pixels are."""
    import av

    return {name: ".".join(map(str, numbers)) for name, numbers in sorted(av.library_versions.items())}


@cache
def environment_id() -> str:
    """Return a short name for everything installed that can move a score."""
    return f"core@{digest({'packages': package_versions(), 'decoder': decoder_build()})[:12]}"


@cache
def device_name(device: str = "cpu") -> str:
    """Return the marketing name of a device: the CPU model, or what torch calls the GPU."""
    if device == "cpu":
        try:
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        except OSError:
            pass
        return platform.processor() or platform.machine()
    import torch  # type: ignore[import-not-found, unused-ignore]

    return str(torch.cuda.get_device_name(device))


def host_name() -> str:
    """Return this machine's name as it may stand in file names."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", platform.node()) or "localhost"


def gpus() -> list[str]:
    """Return one line per NVIDIA GPU (name, memory, driver), empty without one."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    return [line.strip() for line in result.stdout.splitlines() if line.strip()] if result.returncode == 0 else []


@cache
def git_state(folder: Path | None = None) -> dict[str, str | bool]:
    """Return the commit of the checkout this code runs from and whether it is dirty; empty when installed."""
    root = folder or Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or not shutil.which("git"):
        return {}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()  # noqa: S603

    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}


def describe(device: str = "cpu") -> dict[str, object]:
    """Return the provenance of a session, ready for JSON."""
    from talkbench.media.decode import POLICY

    return {
        "environment": environment_id(),
        "packages": package_versions(),
        "decoder": decoder_build(),
        "decode_policy": POLICY,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "cores": os.cpu_count(),
        "gpus": gpus(),
        "git": git_state(),
        "command": without_credentials(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }
