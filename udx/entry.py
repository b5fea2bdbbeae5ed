"""How a command ends: with what it printed, or with one sentence on what is wrong."""

import io
import os
import sys

import click

from udx.errors import UdxError, escaped


def run_command(command: click.Command) -> None:
    """Run a command to its end: a user's error is one sentence and exit status 2, never a traceback."""
    _prepare_process()
    try:
        command.main(standalone_mode=False)
    except UdxError as error:
        _end(str(error))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        _end("interrupted; what was finished is kept, and training goes on with --resume")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(escaped(f"{where}{error.strerror or error}; see to it and run the command again"))
    except ModuleNotFoundError as error:
        _end(
            f"{error.name} is not installed, and this command needs it; "
            "install udx with the extra train, or with cpu to run engines"
        )


def _prepare_process() -> None:
    """Print whatever the terminal's encoding; run no Python file of the current folder in processes started here."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # which has no letter for every name of a file
            stream.reconfigure(errors="backslashreplace")


def _end(sentence: str) -> None:
    click.echo(f"udx: {sentence}", err=True)
    sys.exit(2)
