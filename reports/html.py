"""The report page: one self-contained HTML file. Tables, figures, data and scripts inside; clips linked beside it.

It opens from disk without a server and asks the network for nothing: a content security policy with the digests of our
own style and scripts says so to the browser, too.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import jinja2
from markupsafe import Markup

import talkbench
from talkbench.atomic import write_text
from talkbench.errors import TalkbenchError
from talkbench.metrics.base import RUNNERS, Output, params_digest
from talkbench.schema import SessionRecord
from talkbench.stats import aggregate
from talkbench.store.run import Run
from talkbench.validity import known_answers

from . import figures, make, meaning, page_data, page_strips, quoted, render, spec
from .page_data import Source
from .table import ARROWS, Column, Table, number

QUOTED = ("table1", "table2", "table3", "table4")
SCRIPTS = ("page.js", "tables.js", "plot.js", "drift.js", "players.js", "stage.js", "items.js")
"""Joined in this order into one module."""
WIDEST_BESIDE = 94

_STATUSES = ("ok", "unscorable", "failed", "skipped")
_WORST_FIRST = ("failed", "unscorable", "ok", "skipped")
_PHRASES = (
    ("drift.slope.", "changes less over time in {what} than"),
    ("drift.stable_seconds.", "keeps its {what} for longer than"),
    ("drift.seam_strength.", "has weaker seams in {what} than"),
    ("vbench.temporal_flickering", "is steadier than"),
    ("motion.amount", "moves more than"),
    ("vbench.motion_smoothness", "moves more smoothly than"),
    ("av.offset", "is closer to being in step than"),
    ("sync.frame.confidence", "fits its sound better than"),
    ("sync.frame.offset_frames", "is closer to being in step than"),
)
_DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "zero": "zero is best"}


def write_page(run: Run, folder: Path, *, policy: str = "complete") -> Path:
    """Write `<folder>/index.html` in one step and return its path.

    Args:
        run: What to report on.
        folder: Created if absent; links to clips are relative to it.
        policy: What to do about missing rows: ``complete`` or ``available``.

    Raises:
        TalkbenchError: If a record of the run cannot be read, or the policy is unknown.
    """
    if policy not in {"complete", "available"}:
        raise TalkbenchError(f"unknown policy {policy!r} for missing rows. Known: complete, available.")
    path = folder / "index.html"
    write_text(path, render_page(run, folder, cast("aggregate.Policy", policy)))
    return path


def render_page(run: Run, folder: Path, policy: aggregate.Policy) -> str:
    """Return the page as text."""
    source = Source.read(run)
    data = page_data.collect(source, folder, policy)
    style, early = _theme() + _template_text("style.css"), _template_text("early.js")
    script = "\n".join(_template_text(name) for name in SCRIPTS)
    table1 = _measured(run, "table1", policy)
    timed = {row["system"] for row in source.rows if row["metric"] == "speed" and row["status"] == "ok"}
    speed = _measured(run, "speed", policy, [system.name for system in source.systems if system.name in timed])
    shown1 = make.tables(run, "table1", policy=policy)[0] if table1 else None
    measured = (shown1, _measured(run, "drift", policy), speed, _measured(run, "table4", policy))
    context = {
        "run": run,
        "name": page_data.run_name(run),
        "style": Markup(style),  # noqa: S704 - our own file
        "script": Markup(script),  # noqa: S704 - our own files
        "early": Markup(early),  # noqa: S704 - our own file
        "policy": _content_policy(early, script),
        "data": Markup(page_data.to_script(data)),  # noqa: S704 - escaped there
        "facts": _facts(source),
        "tables": [_shown(table) for table in measured if table],
        "slow": [system.name for system in source.systems if system.name not in timed],
        "glossary": _glossary(source),
        "panels": _panels(table1) if table1 else [],
        "tiers": [block.title for block in table1.blocks] if table1 else [],
        "speed": _speed(table1) if table1 else None,
        "has_drift": bool(data["drift"]),
        "frames": list(page_strips.frames(run)),
        "has_items": bool(data["items"]),
        "complete": policy == "complete",
        "num_unmade": len({item.id for item in run.suite.items or ()} - {clip.item for clip in source.clips}),
        "verdicts": _verdicts(source),
        "quoted": [_shown(quoted.table(name)) for name in QUOTED],
        "findings": quoted.findings(),
        "readings": meaning.readings(source.rows),
        "coverage": _coverage(source),
        "problems": _problems(source),
        "notes": _clip_notes(source),
        "metrics": _metrics(source),
        "sessions": [_session(session) for session in run.sessions()],
        "written_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": talkbench.__version__,
    }
    return _environment().get_template("page.html.j2").render(context)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_template_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template_text(name: str) -> str:
    return str((spec.folder() / "templates" / name).read_text(encoding="utf-8"))


def _theme() -> str:
    """Return the colours of systems as CSS variables, so that figures, curves and legends share one list."""
    pairs = zip(figures.SERIES, figures.DARK_SERIES, strict=True)
    lines = "".join(f"--s{n}:light-dark({light},{dark});" for n, (light, dark) in enumerate(pairs))
    return f":root{{--hues:{len(figures.SERIES)};{lines}}}\n"


def _content_policy(*scripts: str) -> str:
    """Allow exactly our scripts, inline styles (figures need them) and media beside the page."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; media-src 'self' file:; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _measured(run: Run, name: str, policy: aggregate.Policy, systems: Sequence[str] = ()) -> Table | None:
    try:
        return make.measured(run, spec.load(name), name, policy=policy, systems=systems)
    except TalkbenchError:
        return None  # the run has no value for it; the section is left out


def _shown(table: Table) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.title,
        "beside": _width(table) < WIDEST_BESIDE,
        "html": Markup(render.page_table(table)),  # noqa: S704 - escapes every text itself
        "sources": {
            "Markdown": render.markdown(table),
            "LaTeX": render.latex(table),
            "CSV": render.comma_separated(table),
        },
    }


def _width(table: Table) -> int:
    """Return about how many characters wide a table is; a narrow one has its caption beside it."""
    widths = [max(len(row.label) for block in table.blocks for row in block.rows)]
    for column in table.columns:
        texts = [row.cells[column.id].text for block in table.blocks for row in block.rows if column.id in row.cells]
        widths.append(max(map(len, [column.head, *texts])))
    return sum(widths) + 4 * len(widths)


def _facts(source: Source) -> list[tuple[str, str]]:
    run = source.run
    scored = sorted(row["written_at"] for row in source.rows)
    usable = sum(clip.problem is None for clip in source.clips)
    present, listed = {clip.item for clip in source.clips}, {item.id for item in run.suite.items or ()}
    items = f"{len(present & listed)} of {len(listed)}" if listed - present else str(len(present & listed or present))
    items += f", {len(present - listed)} others" if listed and present - listed else ""
    clips = f"{len(source.clips)}" + (f", {len(source.clips) - usable} unusable" if usable < len(source.clips) else "")
    facts = [
        ("Suite", run.suite.id),
        ("Systems", str(len(source.systems))),
        ("Items", items),
        ("Identities", str(len({clip.identity for clip in source.clips}))),
        ("Clips", clips),
        ("Last scored", scored[-1][:10] if scored else "never"),
        ("Device", ", ".join(sorted({row["device"] for row in source.rows})) or "–"),
    ]
    return [(name, value) for name, value in facts if value]


def _glossary(source: Source) -> list[dict[str, str]]:
    present = {row["output"] for row in source.rows}
    return [
        {
            "label": output.label,
            "arrow": ARROWS[output.better] if output.better else "",
            "id": output.id,
            "unit": "" if output.unit == "1" else output.unit,
            "scale": "" if output.scale == 1 else f"printed x {output.scale:g}",
            "better": _DIRECTIONS[output.better] if output.better else "no better direction",
            "description": output.description,
        }
        for output in source.outputs.values()
        if output.id in present
    ]


def _panels(table: Table) -> list[dict[str, Any]]:
    return [
        {
            "head": column.head,
            "unit": "" if column.unit == "1" else column.unit,
            "svg": _svg(figures.interval_panel(table, column), f"dots{n}", figures.describe(table, column)),
        }
        for n, column in enumerate(table.columns)
    ]


def _speed(table: Table) -> dict[str, Any] | None:
    columns = figures.speed_columns(table)
    if not columns:
        return None
    preferred = "vbench.temporal_flickering"
    ids = [column.id for column in columns]
    return {
        "chosen": preferred if preferred in ids else ids[0],
        "views": [
            {
                "id": column.id,
                "head": column.head,
                "plots": [
                    (
                        block.title,
                        _svg(
                            figures.quality_speed(table, column, b),
                            f"speed{n}-{b}",
                            f"{column.head} against frames per second, {block.title}",
                        ),
                    )
                    for b, block in enumerate(table.blocks)
                ],
            }
            for n, column in enumerate(columns)
        ],
    }


def _svg(figure: Any, name: str, description: str) -> Markup:
    return Markup(figures.inline(figure, name, description))  # noqa: S704 - serialised by an XML writer


def _verdicts(source: Source) -> list[dict[str, Any]]:
    tiers = {rule.name: rule.title for rule in source.run.suite.tiers}
    shown = []
    for verdict in known_answers.check(source.rows):
        expected = verdict.expectation
        output = source.outputs[expected.output]
        column = Column(output.id, output.label, scale=output.scale, digits=output.digits + 1)
        interval = (
            _minus(f"{number(verdict.low, column)} to {number(verdict.high, column)}")
            if verdict.low is not None and verdict.high is not None
            else "one identity: sign only"
        )
        shown.append(
            {
                "first": expected.first,
                "phrase": _phrase(output, source),
                "second": expected.second,
                "tier": tiers.get(expected.tier, expected.tier),
                "output": output.label,
                "difference": _minus(f"{verdict.difference * output.scale:+.{output.digits + 1}f}"),
                "interval": interval,
                "num_clips": verdict.num_clips,
                "holds": verdict.holds,
                "verdict": _verdict(verdict),
            }
        )
    return shown


def _verdict(verdict: known_answers.Verdict) -> str:
    if verdict.holds:
        return "✓ holds"
    up = verdict.expectation.better in {"higher", None}
    return "✗ within chance" if verdict.difference and (verdict.difference > 0) == up else "✗ reversed"


def _phrase(output: Output, source: Source) -> str:
    for prefix, phrase in _PHRASES:
        if output.id.startswith(prefix):
            base = source.outputs.get(output.id.removeprefix(prefix))
            return phrase.format(what=base.label if base else output.label)
    return {"lower": f"has a lower {output.label} than", "zero": f"has an {output.label} nearer 0 than"}.get(
        output.better or "", f"has a higher {output.label} than"
    )


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _coverage(source: Source) -> dict[str, Any]:
    """Return, per system and metric, clips by the worst status among their rows."""
    place = {output: number for number, output in enumerate(source.outputs)}
    metrics = list(dict.fromkeys(row["metric"] for row in sorted(source.rows, key=lambda row: place[row["output"]])))
    worst: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in source.rows:
        worst[row["system"], row["metric"]][row["item"]].add(row["status"])
    clips = Counter(clip.system for clip in source.clips)
    rows = []
    for system in source.systems:
        cells = []
        for metric in metrics:
            found = worst[system.name, metric]
            counts = Counter(next(s for s in _WORST_FIRST if s in statuses) for statuses in found.values())
            counts["missing"] = clips[system.name] - len(found)
            cells.append([(status, counts[status]) for status in (*_STATUSES, "missing") if counts[status]])
        rows.append({"system": system.name, "clips": clips[system.name], "cells": cells})
    return {"metrics": metrics, "rows": rows}


def _problems(source: Source) -> list[dict[str, Any]]:
    """Return why clips have no value, grouped by what is wrong, the most serious first."""
    grouped: dict[tuple[str, str, str], dict[tuple[str, str], dict[str, Any]]] = defaultdict(dict)
    for clip in source.clips:
        if clip.problem is not None:
            found = grouped[clip.problem.status, clip.problem.reason, "the clip"]
            found[clip.system, clip.item] = {"message": clip.problem.message, "outputs": []}
    broken = {(clip.system, clip.item) for clip in source.clips if clip.problem is not None}
    for row in source.rows:
        name = (row["system"], row["item"])
        if row["status"] != "ok" and name not in broken:
            found = grouped[row["status"], row["reason"] or "unknown", row["metric"]]
            entry = found.setdefault(name, {"message": row["message"] or "", "outputs": []})
            entry["outputs"].append(source.outputs[row["output"]].label)
    order = ("failed", "unscorable", "skipped")
    return [
        {
            "status": status,
            "reason": reason,
            "metric": metric,
            "clips": [
                {"system": system, "item": item, **entry, "outputs": ", ".join(dict.fromkeys(entry["outputs"]))}
                for (system, item), entry in found.items()
            ],
            "messages": sorted({entry["message"] for entry in found.values()}),
        }
        for (status, reason, metric), found in sorted(
            grouped.items(), key=lambda group: (order.index(group[0][0]), group[0])
        )
    ]


def _clip_notes(source: Source) -> list[dict[str, Any]]:
    notes: dict[str, list[dict[str, str]]] = defaultdict(list)
    for clip in source.clips:
        for note in clip.notes:
            notes[note].append({"system": clip.system, "item": clip.item})
    return [{"note": note, "clips": clips} for note, clips in sorted(notes.items())]


def _metrics(source: Source) -> list[dict[str, str]]:
    """Return versions, parameters and weights of every metric, one line per combination found."""
    found = {
        (row["metric"], row["metric_version"], row["params"], row["weights_kind"], row["env"]) for row in source.rows
    }
    sessions = source.run.sessions()
    return [
        {
            "name": name,
            "version": version,
            "params": _params(name, digest, sessions),
            "weights": "no weights" if weights == "none" else f"{weights} weights",
            "env": env,
        }
        for name, version, digest, weights, env in sorted(found)
    ]


def _params(metric: str, digest: str, sessions: Iterable[SessionRecord]) -> str:
    """Return parameters in words where a session or the defaults give this digest, else the digest."""
    if metric in RUNNERS.names():
        kind = RUNNERS.get(metric).params_type
        given = [session.config.get("params", {}).get(metric, {}) for session in sessions]
        for values in [{}, *given]:
            try:
                params = kind(**values)
            except TypeError:
                continue  # a session of another version, with other parameters
            if params_digest(params) == digest:
                told = ", ".join(f"{name} = {value}" for name, value in vars(params).items())
                return f"{told or 'no parameters'}{'' if values or not told else ' (defaults)'}"
    return f"digest {digest[:12]}"


def _session(session: SessionRecord) -> dict[str, Any]:
    facts = dict(session.provenance)
    git = facts.pop("git", None) or {}
    commit = f"{git.get('commit', '')}{' with uncommitted changes' if git.get('dirty') else ''}"
    return {
        "command": facts.pop("command", session.command),
        "name": session.command,
        "started": _time(session.started_at),
        "ended": _time(session.ended_at) if session.ended_at else "–",
        "outcome": session.outcome,
        "facts": [
            (key.replace("_", " "), _told(value)) for key, value in ({"commit": commit} | facts).items() if value
        ],
        "config": [(key.replace("_", " "), _told(value)) for key, value in session.config.items() if value],
    }


def _time(text: str) -> str:
    return text[:19].replace("T", " ") + " UTC"


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    return str(value)
