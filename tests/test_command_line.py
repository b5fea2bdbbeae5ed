"""The command that a report names does again what was done."""

import shlex

import click
import pytest
from click.testing import CliRunner

from udx.arguments import command_line


@click.command()
@click.argument("file")
@click.option("--blocks", "-b", type=int, default=40)
@click.option("--accuracy/--no-accuracy", default=None)
@click.option("--set", "changes", multiple=True)
@click.pass_context
def measure(ctx: click.Context, **_: object) -> None:
    click.echo(command_line(ctx))


@pytest.mark.parametrize(
    "words",
    [
        "measure a.onnx",
        "measure 'a b.onnx' --blocks 40",
        "measure a.onnx --no-accuracy",
        "measure a.onnx --accuracy --set x=1 --set 'y=a b'",
    ],
)
def test_the_command_is_said_as_it_was_given(words: str) -> None:
    found = CliRunner().invoke(measure, shlex.split(words)[1:], prog_name="measure")
    assert found.exit_code == 0
    assert found.output.strip() == words


def test_short_names_are_written_out() -> None:
    found = CliRunner().invoke(measure, ["-b", "3", "a.onnx"], prog_name="measure")
    assert found.output.strip() == "measure a.onnx --blocks 3"
