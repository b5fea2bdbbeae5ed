"""How a command ends: with what it printed, or with one sentence on what is wrong."""

import io
import os
import sys
from typing import Final

import click

from udx.errors import Interrupted, MissingHardwareError, UdxError, escaped

USER_ERROR: Final = 2
MISSING_HARDWARE: Final = 3
INTERRUPTED: Final = 130
OF_SIGNAL: Final = 128
"""What a shell adds to the number of the signal that ended a process."""

EXTRAS: Final = {
    "accelerate": "train",
    "jaxtyping": "train",
    "nuscenes": "train",
    "onnxscript": "train",
    "pyquaternion": "train",
    "safetensors": "train",
    "scipy": "train",
    "tensorboard": "train",
    "torch": "train",
    "transformers": "train",
    "triton": "train",
    "onnxruntime": "cpu",
    "cuda": "gpu",
    "pycuda": "gpu",
    "tensorrt": "tensorrt",
    "tensorrt_rtx_bindings": "rtx",
}
"""The extra of udx that brings a module."""


def run_command(command: click.Command) -> None:
    """Run a command to its end: a user's error is one sentence, never a traceback.

    Exit status 2 is for what was given, 3 for what this machine lacks, 130 for an interruption.
    """
    _prepare_process()
    try:
        command.main(standalone_mode=False)
    except MissingHardwareError as error:
        _end(str(error), MISSING_HARDWARE)
    except UdxError as error:
        _end(str(error))
    except click.ClickException as error:
        error.show()
        sys.exit(USER_ERROR)
    except (KeyboardInterrupt, click.Abort) as error:
        signals = [its.number for its in (error, error.__cause__) if isinstance(its, Interrupted)]
        status = OF_SIGNAL + signals[0] if signals else INTERRUPTED
        _end("interrupted; what was finished is kept, and training goes on with --resume", status)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(escaped(f"{where}{error.strerror or error}; see to it and run the command again"))
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        _end(f"{module} is not installed, and this command needs it; pip install 'udx[{EXTRAS[module]}]' brings it")


def _prepare_process() -> None:
    """Print whatever the terminal's encoding; run no Python file of the current folder in processes started here."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # which has no letter for every name of a file
            stream.reconfigure(errors="backslashreplace")


def _end(sentence: str, status: int = USER_ERROR) -> None:
    try:
        click.echo(f"udx: {sentence}", err=True)
    except OSError:  # nobody reads any more: the exit status still tells
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stderr.fileno())
    sys.exit(status)
