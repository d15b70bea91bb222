"""What the command line calls and notebooks call: one function per command, plain data in and out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkbench import ray_cluster
from talkbench.errors import TalkbenchError
from talkbench.manifests import load as manifests
from talkbench.metrics import base, cluster, jobs, pool
from talkbench.metrics.score import Metric
from talkbench.mini.suite import is_mini
from talkbench.progress import Progress, Silent
from talkbench.provenance import describe
from talkbench.registry import suggest
from talkbench.schema import ClipRecord, Encode, Problem, Suite, SystemRecord
from talkbench.store import attempts
from talkbench.store.rows import RowWriter
from talkbench.store.run import Run, siblings
from talkbench.systems import check as systems_check
from talkbench.systems import forecast as forecasting
from talkbench.systems import generate as generation
from talkbench.systems import planning, scan, slurm
from talkbench.systems.discover import select
from talkbench.systems.machine import Machine
from talkbench.systems.spec import SystemSpec
from talkbench.weights import store as weights

if TYPE_CHECKING:
    import pandas as pd

    from talkbench.stats.compare import Comparison

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Summary:
    """What an invocation did.

    Attributes:
        run: The run folder.
        num_clips: Clips in the run now.
        written: Rows written, by status.
        reused: Clips whose rows came from equal work done before.
        failures: One message per clip that could not be generated.
        made: Clips that are there now, of those that were to be generated.
        failed_before: Clips that failed in an earlier invocation and were not tried again.
        unavailable: Metric -> why it cannot run here, and what to do.
    """

    run: Path
    num_clips: int
    written: dict[str, int]
    reused: int = 0
    failures: tuple[str, ...] = ()
    made: int = 0
    failed_before: int = 0
    unavailable: dict[str, Problem] = field(default_factory=dict)

    @property
    def any_failed(self) -> bool:
        """Whether a clip failed."""
        return bool(self.failures) or bool(self.written.get("failed"))


def score(
    clips: Sequence[PathLike] | PathLike,
    out: PathLike | None = None,
    *,
    suite: str | Suite | None = None,
    items: Sequence[str] = (),
    metrics: Sequence[str] = ("all",),
    params: dict[str, dict[str, Any]] | None = None,
    weights_dir: PathLike | None = None,
    allow_unverified: bool = False,
    device: str = "cpu",
    jobs: int | None = None,
    ray: str | None = None,
    rerun: jobs.Rerun = "missing",
    progress: Progress | None = None,
) -> Summary:
    """Score folders of clips into a run; what is stored already is not computed again.

    Args:
        clips: Folders of `<item id>.mp4`, one system each (``FOLDER`` or ``NAME=FOLDER``), or a run folder, whose
            systems are taken.
        out: Run folder; may be left out if `clips` is a run folder.
        suite: Suite name, path of a `.jsonl`, or a `Suite`; none for any folder of clips.
        items: Patterns of item ids, such as ``mini-s*``; all by default.
        metrics: Runner or group names.
        params: Metric name -> parameters that differ from the defaults.
        weights_dir: Folder with weight files under their official names; else the cache that `fetch` fills.
        allow_unverified: Accept weight files that no published digest vouches for; their scores are marked.
        device: Where networks run: ``cpu``, ``cuda`` (every GPU), ``cuda:1``.
        jobs: Processes; one per core, or per GPU, by default.
        ray: Ray cluster whose machines score: ``auto``, ``local`` or ``HOST:PORT``. All must see the run folder, the
            clips and the weights under the same paths. The device is then ``cpu`` or ``cuda``.
        rerun: ``missing``, ``failed``, ``all`` or ``none``.
        progress: Told about every clip.

    Raises:
        TalkbenchError: If the request is wrong; whatever was scored before stays.
    """
    given = [clips] if isinstance(clips, str | os.PathLike) else list(clips)
    runners = base.select(list(metrics))
    with_params = {runner.name: _params(runner, (params or {}).get(runner.name)) for runner in runners}
    _refuse_unknown_params(params or {}, list(with_params))
    if ray is not None:
        cluster.refuse_unknown(ray, device)
    devices = pool.devices(device) if ray is None else (device,)
    run, sources = _open(given, Path(out) if out is not None else None, suite)
    located = weights.locate(
        sorted({name for runner in runners for name in runner.needs.weights}),
        weights_dir=Path(weights_dir).absolute() if weights_dir else None,
        allow_unverified=allow_unverified,
        drawn=is_mini(run.suite),
    )
    chosen = tuple(_metric(runner, with_params[runner.name], located) for runner in runners)
    report = progress or Silent()
    config = {
        "clips": [f"{source.name}={source.folder.resolve()}" for source in sources],
        "suite": run.suite.id,
        "items": list(items),
        "metrics": [metric.name for metric in chosen],
        "params": params or {},
        "weights_dir": os.fspath(weights_dir) if weights_dir else None,
        "allow_unverified": allow_unverified,
        "device": device,
        "jobs": jobs,
        "ray": ray,
        "rerun": rerun,
    }
    with run.session("score", config, describe(devices[0] if ray is None else "cpu")):
        records = _matching(_index(run, sources, report), items)
        return _score(run, records, chosen, devices, jobs, ray, rerun, report)


def generate(
    suite: str | Suite,
    systems: Sequence[str],
    out: PathLike,
    *,
    items: Sequence[str] = (),
    weights_dir: PathLike | None = None,
    jobs: int | None = None,
    gpus: int | None = None,
    ray: str | None = None,
    slurm: str | None = None,
    encode: Encode = "native",
    rerun: planning.Rerun = "missing",
    retries: int = 1,
    progress: Progress | None = None,
) -> Summary:
    """Make the clips of a suite with the named systems, under `<out>/clips/<system>/`; existing ones are kept.

    Args:
        suite: Name of a suite, the path of its `.jsonl`, or a `Suite`.
        systems: Names of systems, ``known`` for all known-answer ones, or paths of adapter files.
        out: Run folder, created if need be.
        items: Patterns of item ids, such as ``mini-s*``; all by default.
        weights_dir: Folder with the weight folders of systems that need any.
        jobs: Workers at once; by default one per core (known-answer systems), as many as there are groups of GPUs, or
            one (other systems without GPUs). Not with `slurm`, whose ``shares=N`` says how many jobs there are.
        gpus: GPUs to use of this machine; by default every visible one. Not with `ray` or `slurm`.
        ray: Ray cluster whose machines generate: ``auto``, ``local`` or ``HOST:PORT``. All must see the run folder, the
            items' files and the weights under the same paths.
        slurm: Submit Slurm jobs with these options (``KEY=VALUE,...``, submitit's names) and wait for them.
        encode: ``native`` keeps clips as their systems write them; ``tap`` brings those of adapters into one layout,
            with the benchmark's own sound. A clip of the other policy is made anew.
        rerun: ``missing`` makes clips that were never tried, or only interrupted; ``failed`` also those that failed;
            ``all`` every one anew; ``none`` nothing.
        retries: How often a clip is tried again after a crash, a time limit, or a start that failed.
        progress: Told about every clip.

    Raises:
        TalkbenchError: If a system or the suite is unknown, or has no items.
        PrerequisiteError: If a system cannot run here; nothing was made then.
    """
    chosen = select(systems)
    where = _where(weights_dir, jobs, gpus, ray, slurm)
    opened = Run.open_or_create(Path(out), manifests.load(suite) if isinstance(suite, str) else suite)
    planned = planning.plan(opened.suite, chosen, opened.path, items, rerun, encode)
    config = {
        "suite": opened.suite.id,
        "systems": [system.name for system in chosen],
        "items": list(items),
        "jobs": jobs,
        "gpus": gpus,
        "ray": ray,
        "slurm": slurm,
        "encode": encode,
        "rerun": rerun,
        "retries": retries,
    }
    with opened.session("generate", config, describe()):
        for system in chosen:
            opened.add_system(
                SystemRecord(
                    name=system.name,
                    kind="generated",
                    tiers=system.tiers,
                    path=str((opened.path / "clips" / system.name).resolve()),
                    description=system.description,
                    caution=system.caution if isinstance(system, SystemSpec) else "",
                )
            )
        failures = generation.generate(
            planned.to_make,
            chosen,
            where,
            opened.path,
            assets=manifests.folder_of(suite) if isinstance(suite, str) else None,
            retries=retries,
            progress=progress or Silent(),
        )
    made = len(planning.plan(opened.suite, chosen, opened.path, items, "none", encode).there)
    return Summary(
        opened.path, len(planned.asked), {}, failures=tuple(failures), made=made, failed_before=len(planned.failed)
    )


def run(
    suite: str | Suite,
    systems: Sequence[str],
    out: PathLike,
    *,
    items: Sequence[str] = (),
    metrics: Sequence[str] = ("all",),
    params: dict[str, dict[str, Any]] | None = None,
    weights_dir: PathLike | None = None,
    allow_unverified: bool = False,
    device: str = "cpu",
    jobs: int | None = None,
    gpus: int | None = None,
    ray: str | None = None,
    slurm: str | None = None,
    encode: Encode = "native",
    rerun: planning.Rerun = "missing",
    retries: int = 1,
    progress: Progress | None = None,
) -> Summary:
    """Generate, then score: both stages resume on their own, and both run over a Ray cluster if one is given.

    Slurm jobs only generate, and `jobs` is then about scoring alone; `rerun` means clips in the first stage and rows in
    the second.
    """
    made = generate(
        suite,
        systems,
        out,
        items=items,
        weights_dir=weights_dir,
        jobs=jobs if slurm is None else None,
        gpus=gpus,
        ray=ray,
        slurm=slurm,
        encode=encode,
        rerun=rerun,
        retries=retries,
        progress=progress,
    )
    scored = score(
        made.run,
        items=items,
        metrics=metrics,
        params=params,
        weights_dir=weights_dir,
        allow_unverified=allow_unverified,
        device=device,
        jobs=jobs,
        ray=ray,
        rerun=rerun,
        progress=progress,
    )
    return replace(scored, failures=made.failures, made=made.made, failed_before=made.failed_before)


def plan(
    suite: str | Suite,
    systems: Sequence[str],
    out: PathLike,
    *,
    items: Sequence[str] = (),
    metrics: Sequence[str] = ("all",),
    weights_dir: PathLike | None = None,
    jobs: int | None = None,
    gpus: int | None = None,
    encode: Encode = "native",
    rerun: planning.Rerun = "missing",
) -> dict[str, Any]:
    """Return what `run` would make and score and what that takes, without touching the disk.

    Nothing need be installed, and the GPUs need not be here: `gpus` is taken for given. A suite whose list is not
    frozen is taken to have as many clips as the report says, which `assumption` tells.
    """
    chosen = select(systems)
    wanted = manifests.load(suite) if isinstance(suite, str) else suite
    if items and wanted.items is None:
        raise TalkbenchError(f"items {', '.join(items)}: the list of {wanted.id} is not frozen, so it has none yet.")
    here = Machine.this(weights_dir=Path(weights_dir) if weights_dir else None)
    machine = here.imagined(gpus)
    found = forecasting.forecast(
        wanted, chosen, Path(out), machine, here=here, patterns=items, rerun=rerun, encode=encode, num_workers=jobs
    )
    hours = [each.gpu_hours for each in found]
    return {
        "suite": wanted.id,
        "assumption": forecasting.assumption(wanted),
        "gpus": len(machine.gpus),
        "metrics": [runner.name for runner in base.select(list(metrics))],
        "clips": sum(each.clips + each.clips_there for each in found),
        "clips_to_make": sum(each.clips for each in found),
        "seconds_to_make": round(sum(each.seconds for each in found), 1),
        "gpu_hours": None if None in hours else round(sum(hour or 0.0 for hour in hours), 2),
        "weights_gigabytes": forecasting.missing_gigabytes(chosen, here),
        "clips_gigabytes": round(sum(each.clips_gigabytes for each in found), 3),
        "systems": {each.system: asdict(each) for each in found},
    }


def list_systems(*, weights_dir: PathLike | None = None) -> list[dict[str, Any]]:
    """Return every system: what it is, its licence, and what it lacks to run here."""
    machine = Machine.this(weights_dir=Path(weights_dir) if weights_dir else None)
    return [asdict(listed) for listed in systems_check.listing(machine)]


def check_systems(
    systems: Sequence[str], *, weights_dir: PathLike | None = None, gpus: int | None = None
) -> list[dict[str, Any]]:
    """Start each system and have it make a short clip that is not kept.

    Raises:
        TalkbenchError: If a name is unknown, or is that of a known-answer system, which needs no check.
        PrerequisiteError: If a system cannot run here.
    """
    machine = Machine.this(weights_dir=Path(weights_dir) if weights_dir else None, num_gpus=gpus)
    chosen = select(systems)
    for system in chosen:
        if not isinstance(system, SystemSpec):
            raise TalkbenchError(f"{system.name} is a known-answer system: it is part of talkbench and always runs.")
    specs = [system for system in chosen if isinstance(system, SystemSpec)]
    return [systems_check.facts(systems_check.trial(spec, machine)) for spec in specs]


def status(run_folder: PathLike) -> dict[str, Any]:
    """Return counts per system and metric, what is skipped everywhere, problems by reason, and the next command."""
    opened = Run(Path(run_folder))
    records, rows = opened.clips(), opened.current_rows()
    asked = {name for session in opened.sessions() for name in session.config.get("metrics", [])}
    metrics = [name for name in base.RUNNERS.names() if name in asked | {row["metric"] for row in rows}]
    generated = attempts.summary(opened)
    systems: dict[str, Any] = {}
    for system in opened.systems():
        own = [record for record in records if record.system == system.name]
        mine = [row for row in rows if row["system"] == system.name]
        systems[system.name] = {
            "clips": len(own),
            "expected": _num_expected(system, opened.suite, records),
            "generation": _generation(generated.get(system.name)),
            "metrics": {name: _counts(own, [row for row in mine if row["metric"] == name]) for name in metrics},
        }
    problems = Counter((row["status"], row["reason"]) for row in rows if row["status"] in {"failed", "unscorable"})
    left = sum(counts["missing"] for entry in systems.values() for counts in entry["metrics"].values())
    failed = sum(counts["failed"] for entry in systems.values() for counts in entry["metrics"].values())
    return {
        "run": str(opened.path),
        "suite": opened.suite.id,
        "systems": systems,
        "skipped": {name: why for name in metrics if (why := _skipped([r for r in rows if r["metric"] == name]))},
        "problems": [{"status": s, "reason": r, "rows": n} for (s, r), n in problems.most_common()],
        "failed_clips": [
            {"clip": f"{record.system}/{record.item}", "path": record.path, "message": record.problem.message}
            for record in records
            if record.problem is not None
        ],
        "notes": _clip_notes(records),
        "next": _next_command(opened.path, left, failed, bool(rows)),
    }


def compare(run_folder: PathLike, first: str, second: str, *, outputs: Sequence[str] | None = None) -> list[Comparison]:
    """Compare two systems of a run on their shared clips.

    Raises:
        TalkbenchError: If a system or output is not in the run, or they share no scored clip.
    """
    from talkbench.stats import compare as comparisons

    opened = Run(Path(run_folder))
    names = [system.name for system in opened.systems()]
    for name in (first, second):
        if name not in names:
            raise TalkbenchError(
                f"{opened.path} has no system {name!r}.{suggest(name, names)} It has: {', '.join(names)}."
            )
    rows = opened.current_rows()
    present = {row["output"] for row in rows}
    for name in outputs or ():
        if name not in present:
            raise TalkbenchError(
                f"{opened.path} has no output {name!r}.{suggest(name, present)} It has: {', '.join(sorted(present))}."
            )
    found = comparisons.compare(rows, first, second, outputs)
    if not found:
        raise TalkbenchError(
            f"{first} and {second} share no scored clip in {opened.path}. See `talkbench status {opened.path}`."
        )
    return found


def load_rows(run_folder: PathLike) -> pd.DataFrame:
    """Return the current rows of a run as a DataFrame, one line per clip and output."""
    from talkbench.store.frame import to_frame

    return to_frame(Run(Path(run_folder)).current_rows())


def export(run_folder: PathLike, path: PathLike) -> int:
    """Write the rows of a run to a `.parquet` or `.csv` file; return how many."""
    from talkbench.store.export import export as export_rows

    return export_rows(Run(Path(run_folder)), Path(path))


def _open(given: Sequence[PathLike], out: Path | None, suite: str | Suite | None) -> tuple[Run, list[scan.Source]]:
    if not given:
        raise TalkbenchError("no clips given: `talkbench score FOLDER [FOLDER ...] --out RUN`.")
    first = Path(given[0])
    if len(given) == 1 and (first / "run.json").is_file() and (out is None or out.resolve() == first.resolve()):
        opened = Run(first)
        # Of a system that could not run there is a record, for the tables, and no clip.
        sources = [
            scan.Source(system.name, Path(system.path))
            for system in opened.systems()
            if system.kind == "folder" or any(Path(system.path).glob("*.mp4"))
        ]
        if not sources:
            raise TalkbenchError(f"{opened.path} holds no clip yet: `talkbench generate ... --out {opened.path}`.")
        return opened, sources
    if out is None:
        raise TalkbenchError("where to? Name a run folder: `talkbench score FOLDER --out runs/NAME`.")
    sources = scan.parse_sources([os.fspath(entry) for entry in given])
    if isinstance(suite, str):
        suite = manifests.load(suite)
    if suite is None:
        suite = Run(out).suite if (out / "run.json").is_file() else manifests.FOLDER
    opened = Run.open_or_create(out, suite)
    for source in sources:
        opened.add_system(SystemRecord(name=source.name, kind="folder", path=str(source.folder.resolve())))
    return opened, sources


def _index(run: Run, sources: list[scan.Source], progress: Progress) -> list[ClipRecord]:
    records: list[ClipRecord] = []
    progress.start("index", len(sources))
    for source in sources:
        records += scan.index(run, source)
        progress.step(source.name)
    progress.finish()
    return records


def _score(
    run: Run,
    records: list[ClipRecord],
    metrics: tuple[Metric, ...],
    devices: tuple[str, ...],
    num_jobs: int | None,
    ray: str | None,
    rerun: jobs.Rerun,
    progress: Progress,
) -> Summary:
    planned = jobs.plan(run, records, metrics, rerun)
    left = planned
    if planned:
        writer = RowWriter(run.path / "rows")
        try:
            left = jobs.reuse(run, planned, siblings(run.path), writer)
        finally:
            writer.close()
    written: Counter[str] = Counter()

    def note(outcome: jobs.Outcome) -> None:
        written.update(outcome.statuses)
        progress.step(outcome.label, ok=outcome.ok)

    progress.start("score", len(left))
    pool.score_all(run, left, devices, num_workers=num_jobs, ray=ray, on_outcome=note)
    progress.finish()
    why = {metric.name: metric.unavailable for metric in metrics if metric.unavailable is not None}
    return Summary(run.path, len(records), dict(written), reused=len(planned) - len(left), unavailable=why)


def _matching(records: list[ClipRecord], patterns: Sequence[str]) -> list[ClipRecord]:
    """Return the records whose item id matches any pattern; all without patterns."""
    if not patterns:
        return records
    found = [record for record in records if manifests.matches(record.item, patterns)]
    if not found:
        known = sorted({record.item for record in records})
        raise TalkbenchError(f"no item matches {', '.join(patterns)}. Items: {', '.join(known[:5])}, ...")
    return found


def _metric(runner: type[base.Runner], params: Any, located: weights.Located) -> Metric:
    """Return a runner with its parameters and weight files; if it cannot run here, it knows why."""
    unavailable = _unavailable(runner, located)
    files = {name: located.files[name] for name in runner.needs.weights} if unavailable is None else {}
    return Metric(runner.name, params, files, unavailable)


def _unavailable(runner: type[base.Runner], located: weights.Located) -> Problem | None:
    """Say why a runner with networks cannot run here, if it cannot."""
    if runner.needs.weights and find_spec("torch") is None:
        message = f"{runner.name} needs PyTorch: pip install 'talkbench[metrics]'"
        return Problem(status="skipped", reason="no-torch", message=message)
    damaged = [located.damaged[name] for name in runner.needs.weights if name in located.damaged]
    if damaged:
        return Problem(status="failed", reason="bad-weights", message=" ".join(damaged))
    missing = [located.missing[name] for name in runner.needs.weights if name in located.missing]
    return Problem(status="skipped", reason="no-weights", message=" ".join(missing)) if missing else None


def _params(runner: type[base.Runner], given: dict[str, Any] | None) -> Any:
    if not given:
        return None
    known = [entry.name for entry in fields(runner.params_type)]
    for name in given:
        if name not in known:
            raise TalkbenchError(
                f"metric {runner.name!r} has no parameter {name!r}.{suggest(name, known)} "
                f"It has: {', '.join(known) or 'none'}."
            )
    return runner.params_type(**given)


def _refuse_unknown_params(params: dict[str, dict[str, Any]], chosen: list[str]) -> None:
    for name in params:
        if name not in chosen:
            raise TalkbenchError(
                f"parameters for {name!r}, which is not a chosen metric ({', '.join(chosen)}).{suggest(name, chosen)}"
            )


def _counts(records: list[ClipRecord], rows: list[dict[str, Any]]) -> dict[str, int]:
    """Count clips by what their rows of one metric come to: any failure, else any value, else why there is none."""
    order = ("failed", "ok", "unscorable", "skipped")
    statuses: dict[str, set[str]] = {}
    for row in rows:
        statuses.setdefault(row["clip_key"], set()).add(row["status"])
    counts = Counter(next(status for status in order if status in found) for found in statuses.values())
    return {status: counts[status] for status in order} | {"missing": len(records) - len(statuses)}


def _generation(counts: dict[str, int] | None) -> dict[str, Any] | None:
    """Sort the outcomes of a system's attempts; None for a folder of clips that were made elsewhere."""
    if counts is None:
        return None
    failed = {word: n for word, n in counts.items() if word not in {attempts.MADE, attempts.NOT_TRIED}}
    return {"made": counts.get(attempts.MADE, 0), "failed": failed, "not_tried": counts.get(attempts.NOT_TRIED, 0)}


def _where(
    weights_dir: PathLike | None, jobs: int | None, gpus: int | None, ray: str | None, options: str | None
) -> generation.Where:
    if ray is not None and options is not None:
        raise TalkbenchError("--ray and --slurm: clips are made over one or the other.")
    if gpus is not None and options is not None:
        raise TalkbenchError("--gpus is about this machine; with --slurm, give gpus_per_node=N among its options.")
    if gpus is not None and ray is not None:
        raise TalkbenchError(
            "--gpus is about this machine; with --ray, all GPUs of the cluster are used: leave it out."
        )
    if jobs is not None and options is not None:
        raise TalkbenchError("--jobs is about this machine; with --slurm, give shares=N jobs among its options.")
    if ray is not None:
        ray_cluster.refuse_unknown(ray)
    machine = Machine.this(weights_dir=Path(weights_dir) if weights_dir else None, num_gpus=gpus)
    return generation.Where(machine, jobs, ray, slurm.parse(options) if options is not None else None)


def _skipped(rows: list[dict[str, Any]]) -> str:
    """Return why a metric has no row but skipped ones; empty if it has others, or none."""
    if any(row["status"] != "skipped" for row in rows):
        return ""
    return ", ".join(sorted({str(row["reason"]) for row in rows}))


def _num_expected(system: SystemRecord, suite: Suite, records: list[ClipRecord]) -> int:
    if suite.items is None:
        return len({record.item for record in records})
    return sum(system.takes_part(item.tier) for item in suite.items)


def _clip_notes(records: list[ClipRecord]) -> list[dict[str, str]]:
    return [{"clip": f"{r.system}/{r.item}", "note": note} for r in records for note in r.notes]


def _next_command(path: Path, missing: int, failed: int, any_rows: bool) -> str:
    if missing:
        return f"talkbench score {path}"
    if failed:
        return f"talkbench score {path} --rerun failed"
    return f"talkbench report table1 --run {path}" if any_rows else f"talkbench score FOLDER --out {path}"
