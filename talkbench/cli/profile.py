"""`talkbench profile`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from talkbench.errors import TalkbenchError

if TYPE_CHECKING:
    from talkbench.schema import ProfileRecord

COMPILED = {"off": (False,), "on": (True,), "both": (False, True)}
GIGABYTE = 1e9


def profile(
    system: Annotated[str, typer.Argument(help="System with components: soulx-livetalk, soulx-livetalk-tiny.")],
    gpus: Annotated[str | None, typer.Option(help="Numbers of GPUs, such as 1,2,4,8. Default 1.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu; with --dry-run also a GPU that is not here: H800, H200.")
    ] = None,
    processes: Annotated[str | None, typer.Option(help="With --device cpu: numbers of processes, such as 1,2.")] = None,
    compile: Annotated[  # noqa: A002
        Literal["off", "on", "both"] | None,
        typer.Option(help="With torch.compile or without; both by default, off on a CPU."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; runs/profile-SYSTEM by default.")] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="Folder with the system's weight folders.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Do without weights: the same speed; records say so.")
    ] = False,
    rerun: Annotated[bool, typer.Option("--rerun", help="Measure again what is stored.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load nothing: say what it should need and take; with --out kept, marked.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """Measure where a system spends its time: each step, decode, encode, the whole cycle; and what it needs.

    Each configuration is stored as soon as it is measured; stop at any time and run it again. Of more GPUs than there
    are, one rank is measured and the rest predicted, and marked so.

    talkbench profile soulx-livetalk-tiny --device cpu --processes 1,2 --out runs/speed

    talkbench profile soulx-livetalk --gpus 1,2,4,8 --device H200 --dry-run
    """
    from talkbench import profiling
    from talkbench.cli import console

    chosen = device or "cuda"
    counts = _counts(chosen, gpus, processes)
    compiled = COMPILED[compile or ("off" if chosen == "cpu" else "both")]
    if dry_run:
        found = profiling.estimate(system, chosen, counts, compiled, out)
        if json:
            console.print_json(found)
        else:
            _print_estimates(found)
        if any(entry["shortage"] for entry in found):
            raise typer.Exit(console.EXIT_PREREQUISITE)
        return
    if chosen not in {"cpu", "cuda"}:
        raise TalkbenchError(f"--device {chosen}: expected cpu or cuda; a GPU's name is for --dry-run.")
    folder = out or Path("runs") / f"profile-{system}"
    records = profiling.profile(
        system, folder, device="cpu" if chosen == "cpu" else "cuda", counts=counts, compiled=compiled,
        weights_dir=weights_dir, random_weights=random_weights, rerun=rerun, progress=console.progress(),
    )  # fmt: skip
    if json:
        console.print_json([record.model_dump(mode="json") for record in records])
        return
    _print(records)
    console.say(f"{len(records)} configurations: {folder / 'profiles'}")
    console.say(f"  next: talkbench report table4 --run {folder}; talkbench report figure6 --run {folder}")


def _counts(device: str, gpus: str | None, processes: str | None) -> tuple[int, ...]:
    option, text = ("--processes", processes) if device == "cpu" else ("--gpus", gpus)
    if (processes if device != "cpu" else gpus) is not None:
        raise TalkbenchError(f"--device {device} is measured with {option}, such as {option} 1,2.")
    try:
        counts = tuple(dict.fromkeys(int(part) for part in (text or "1").split(",")))
    except ValueError as error:
        raise TalkbenchError(f"{option} {text!r}: expected numbers separated by commas, such as 1,2.") from error
    if min(counts) < 1:
        raise TalkbenchError(f"{option} {text}: expected 1 or more.")
    return counts


def _print(records: Sequence[ProfileRecord]) -> None:
    from rich.table import Table

    from talkbench.cli import console

    table = Table(title=f"milliseconds (median) on {records[0].device}" if records else None)
    for head in ("processes", "", "how", "DiT step", "decode", "encode", "cycle", "FPS", "first frame", "memory GB"):
        table.add_column(head, justify="left" if head in {"", "how"} else "right")
    for record in records:
        parts = [record.components[name].p50_seconds for name in ("dit_step", "decode", "encode")]
        table.add_row(
            str(record.num_processes),
            "compiled" if record.compiled else "eager",
            f"{record.origin}, {record.weights_kind} weights",
            *(f"{1e3 * seconds:.1f}" for seconds in (*parts, record.cycle.p50_seconds)),
            f"{record.fps:.2f}",
            f"{1e3 * record.startup.first_frame_seconds:.1f}" if record.startup else "-",
            f"{record.peak_memory_bytes / GIGABYTE:.2f}" if record.peak_memory_bytes else "-",
        )
    console.out.print(table)


def _print_estimates(found: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    from talkbench.cli import console

    table = Table(title=f"estimates for {found[0]['recipe']} on {found[0]['device']}; nothing was measured")
    for head in ("processes", "", "weights GB", "working GB", "needed GB", "of GB", "step ms", "cycle ms", "FPS"):
        table.add_column(head, justify="left" if head == "" else "right")
    for entry in found:
        sizes = (entry["kept_bytes"], entry["working_bytes"], entry["needed_bytes"])
        seconds = entry["predicted"]
        table.add_row(
            str(entry["num_processes"]),
            "compiled" if entry["compiled"] else "eager",
            *(f"{size / GIGABYTE:.2f}" for size in sizes),
            f"{entry['device_bytes'] / GIGABYTE:.0f}" if entry["device_bytes"] else "-",
            *([f"{1e3 * seconds['dit_step']:.0f}", f"{1e3 * seconds['cycle']:.0f}", f"{seconds['fps']:.1f}"]
              if seconds else ["-"] * 3),
        )  # fmt: skip
    console.out.print(table)
    for reason in dict.fromkeys(entry["shortage"] for entry in found if entry["shortage"]):
        console.say(f"does not fit: {reason}")
