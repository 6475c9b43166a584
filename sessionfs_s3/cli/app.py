"""The program ``sessionfs-s3``: its commands, and how their errors are told."""

from __future__ import annotations

import sys
from typing import Final

import typer

from sessionfs_s3.cli.gateway import gateway, gateway_token
from sessionfs_s3.errors import InvalidInput, SessionFsError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

app = typer.Typer(
    name="sessionfs-s3",
    help="GitHub Copilot SDK sessions in object storage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def sessionfs_s3() -> None:
    """Keep GitHub Copilot SDK sessions in object storage."""


app.command("gateway")(gateway)
app.command("gateway-token")(gateway_token)


def main() -> None:
    """Run the program; an error that is the user's to mend is one line on standard error."""
    try:
        app()
    except InvalidInput as error:
        _complain(error, EXIT_USAGE)
    except (SessionFsError, OSError, RuntimeError) as error:
        _complain(error, EXIT_FAILED)


def _complain(error: Exception, status: int) -> None:
    typer.echo(f"sessionfs-s3: {error}", err=True)
    sys.exit(status)
