"""What the model's command lines have in common: where they talk, and how they end."""

from __future__ import annotations

import sys

import torch.distributed as dist
import typer
from rich.console import Console

from talkbench.errors import TalkbenchError

console = Console(stderr=True, highlight=False)


def run(app: typer.Typer) -> None:
    """Run a command line; errors of the user's are one line, and process groups are left."""
    try:
        app()
    except TalkbenchError as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True)
        sys.exit(error.exit_code)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
