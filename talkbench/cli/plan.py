"""What a request would take, as a table: `talkbench run ... --dry-run`."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from talkbench.cli import console


def show(plan: dict[str, Any], *, as_json: bool) -> None:
    """Print a plan of `talkbench.api.plan`."""
    if as_json:
        console.print_json(plan)
        return
    table = Table(title=f"{plan['suite']} on {plan['gpus']} GPUs", title_justify="left")
    table.add_column("system", no_wrap=True)
    for title in ("clips", "video", "GPUs x workers", "GPU hours", "RAM", "GPU memory", "weights", "disk"):
        table.add_column(title, justify="right")
    table.add_column("runs here")
    for name, each in plan["systems"].items():
        table.add_row(escape(name), *_cells(each))
    console.out.print(table)
    for line in _notes(plan):
        console.out.print(line, markup=False, soft_wrap=True)


def _cells(each: dict[str, Any]) -> list[str]:
    there = f" ({each['clips_there']} there)" if each["clips_there"] else ""
    gpus = f"{each['gpus_per_job']} x {each['side_by_side']}" if each["gpus_per_job"] else "none"
    hours = "unknown" if each["gpu_hours"] is None else f"{each['gpu_hours']:g} ({each['gpu_hours_from']})"
    memory = "unknown" if each["gpu_gigabytes"] is None else f"{each['gpu_gigabytes']:g} GB"
    return [
        f"{each['clips']}{there}",
        f"{each['seconds'] / 60:.1f} min",
        gpus,
        hours if each["gpus_per_job"] else "none",
        f"{each['ram_gigabytes']:g} GB" if each["ram_gigabytes"] else "unknown" if each["gpus_per_job"] else "little",
        memory if each["gpus_per_job"] else "none",
        f"{each['weights_gigabytes']:g} GB" if each["weights_gigabytes"] else "none",
        f"{each['clips_gigabytes']:.2f} GB",
        "no" if each["lacks"] else "yes",
    ]


def _notes(plan: dict[str, Any]) -> list[str]:
    """Return the sentences under the table: what is assumed, totals, licences, and what is missing."""
    lines = [f"  {plan['assumption']}"] if plan["assumption"] else []
    hours = "unknown" if plan["gpu_hours"] is None else f"{plan['gpu_hours']:g}"
    bases = ", ".join(dict.fromkeys(each["clips_from"] for each in plan["systems"].values()))
    lines.append(
        f"  in all: {plan['clips_to_make']} clips, {plan['seconds_to_make'] / 60:.1f} min of video, {hours} GPU hours, "
        f"{plan['weights_gigabytes']:g} GB of weights to get, {plan['clips_gigabytes']:.2f} GB of clips ({bases})"
    )
    lines.append("  GPUs of a worker x workers side by side; systems share the GPUs, the largest first")
    lines.append("  GPU hours: measured on clips of this run, or quoted; loading of the models comes on top")
    for name, each in plan["systems"].items():
        mark = "NON-COMMERCIAL PARTS: " if each["non_commercial"] else ""
        lines.append(f"  licences of {name}: {mark}{'; '.join(each['licences'])}")
    for name, each in plan["systems"].items():
        lines += [f"  {name}: {sentence}" for sentence in each["lacks"]]
    lines.append(f"  metrics: {', '.join(plan['metrics'])}")
    return lines
