"""`talkbench`: the commands, and those that other packages add under `talkbench.commands`."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from talkbench import __version__
from talkbench.cli import (
    calibrate,
    compare,
    console,
    data,
    doctor,
    env,
    export,
    generate,
    manifest,
    profile,
    run,
    score,
    status,
    system,
    validity,
    weights,
)
from talkbench.errors import Interrupted

_log = logging.getLogger(__name__)


class _Commands(TyperGroup):
    """Typer leaves silently on Ctrl-C; we say what is safe."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override, unused-ignore]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted("everything finished so far is stored; run the same command again to go on.") from error


app = typer.Typer(
    name="talkbench",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Evaluate audio-driven avatar video: folders of clips in, one table with intervals out.\n\n"
        "Start with: talkbench score FOLDER [FOLDER ...] --out runs/first, then talkbench report page --run "
        "runs/first. Every long command can be stopped and run again; it goes on where it was."
    ),
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"talkbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    del version


app.command("score", rich_help_panel="Measure")(score.score)
app.command("generate", rich_help_panel="Measure")(generate.generate)
app.command("run", rich_help_panel="Measure")(run.run)
app.command("profile", rich_help_panel="Measure")(profile.profile)
app.command("status", rich_help_panel="Read")(status.status)
app.command("compare", rich_help_panel="Read")(compare.compare)
app.command("export", rich_help_panel="Read")(export.export)
app.command("calibrate", rich_help_panel="Check the metrics")(calibrate.calibrate)
app.command("validity", rich_help_panel="Check the metrics")(validity.validity)
app.add_typer(weights.app, name="weights", rich_help_panel="Inspect")
app.add_typer(data.app, name="data", rich_help_panel="Inspect")
app.add_typer(manifest.app, name="manifest", rich_help_panel="Inspect")
app.add_typer(system.app, name="system", rich_help_panel="Inspect")
app.add_typer(env.app, name="env", rich_help_panel="Inspect")
app.command("doctor", rich_help_panel="Inspect")(doctor.doctor)


def _mount_commands() -> None:
    for point in entry_points(group="talkbench.commands"):
        try:
            command = point.load()
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=point.name, rich_help_panel="Read")
            else:
                app.command(point.name, rich_help_panel="Read")(command)
        except Exception as error:  # noqa: BLE001 - a broken plug-in costs its own command only
            _log.warning("command %r of %s is not available: %s", point.name, point.value, error)


def main() -> None:
    """Run the command line."""
    _mount_commands()
    console.guarded(app)
