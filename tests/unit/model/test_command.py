"""Command lines of the model: an error is one line that says what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from model import command
from talkbench.errors import TalkbenchError


def test_an_error_is_printed_as_it_is_whatever_is_in_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    told = f"{Path('runs')}/[new]/[/x]/:smile: cannot be read"

    @app.command()
    def fail() -> None:
        raise TalkbenchError(told)

    with pytest.raises(SystemExit) as caught:
        command.run(lambda: app([], standalone_mode=False))  # type: ignore[arg-type]
    assert caught.value.code == TalkbenchError.exit_code
    assert capsys.readouterr().err == f"error: {told}\n"
