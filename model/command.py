"""What the model's command lines have in common: where they talk, and how they end."""

from __future__ import annotations

import sys

import torch.distributed as dist
import typer
from rich.console import Console
from rich.text import Text

from talkbench.errors import TalkbenchError

console = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""Prints paths and messages as they are; colour is given beside them."""


def shown(docstring: str | None) -> str:
    """Return a module's docstring as a command's help; lines in it that are indented are not wrapped."""
    return (docstring or "").replace("\n\n    ", "\n\n\b\n    ")


def run(app: typer.Typer) -> None:
    """Run a command line; errors of the user's are one line, and process groups are left."""
    try:
        app()
    except TalkbenchError as error:
        console.print(Text("error:", "red"), str(error), soft_wrap=True)
        sys.exit(error.exit_code)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
