"""What the options of all commands have in common: files that are read or written, names that can be listed."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from udx.errors import UdxError, unknown_name

STDOUT: Final = Path("-")
"""What ``--json -`` names."""

if TYPE_CHECKING:
    _ParamType = click.ParamType[str]
else:
    _ParamType = click.ParamType  # click before 8.2 has no type parameter

Complete = Callable[[dict[str, Any]], dict[str, Path]]
"""Fills in defaults that depend on other options, and returns what else will be written, by what it is."""


class Input(click.Path):
    """A file or folder that a command reads."""


class Output(click.Path):
    """A file that a command writes; it is tried before any work is done, and is never one that the command reads."""


class OutputFolder(Output):
    """A folder, or a picture or a folder of pictures, that a command writes."""


class JsonFile(Output):
    """A file for JSON; ``-`` is standard output."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Tell ``-`` from a file of that name, which is written ``./-``."""
        if value == "./-":
            return Path.cwd() / "-"
        return STDOUT if value == "-" else super().convert(value, param, ctx)


class Name(_ParamType):
    """One of a list of names; an unknown one is refused with the most similar that there are."""

    name = "name"

    def __init__(self, kind: str, names: Sequence[str]) -> None:
        self.kind, self.names = kind, tuple(names)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names, as click shows those of a choice."""
        return f"[{'|'.join(self.names)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name, if it is one."""
        if value not in self.names:
            raise unknown_name(self.kind, str(value), self.names)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin so."""
        return [CompletionItem(name) for name in self.names if name.startswith(incomplete)]


class Verb(click.Command):
    """A command that refuses, before it works, outputs that it cannot write or that would overwrite its inputs."""

    def __init__(self, *args: Any, complete: Complete | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.complete = complete

    def invoke(self, ctx: click.Context) -> Any:
        """Check files, then run the command."""
        more = self.complete(ctx.params) if self.complete else {}
        self.check_files(ctx.params, more)
        return super().invoke(ctx)

    def check_files(self, params: dict[str, Any], more: dict[str, Path]) -> None:
        """Refuse what collides or cannot be written; ``more`` are outputs that no option names."""
        inputs: dict[str, Path] = {}
        files, folders = dict(more), dict[str, Path]()
        for param in self.params:
            value, label = params.get(param.name or ""), _label(param)
            if not isinstance(value, Path) or value == STDOUT:
                continue
            if isinstance(param.type, Input):
                inputs[label] = value
            elif isinstance(param.type, OutputFolder):
                folders[label] = value
            elif isinstance(param.type, Output):
                files[label] = value
        if not files and not folders:
            return
        from udx.outputs import check_outputs, require_writable_folder

        check_outputs(files, inputs)
        for label, folder in folders.items():
            require_writable_folder(folder.parent, label)


class Verbs(click.Group):
    """A group of verbs; without a verb it shows its help."""

    command_class = Verb
    group_class = type

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help where no verb is given; asking for it is no mistake."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)


def put_json(file: Path | None, value: Any) -> None:
    """Write JSON to a file, to standard output, or nowhere.

    Raises:
        UdxError: the file cannot be written.
    """
    if file is None:
        return
    if file == STDOUT:
        click.echo(json.dumps(value, indent=2, allow_nan=False))
        return
    from udx.files import write_json

    write_json(file, value)


def file_of(json_file: Path | None) -> Path | None:
    """The file that ``--json`` names, if it names one."""
    return None if json_file == STDOUT else json_file


def reserve_stdout_for_json(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Send tables to standard error where standard output is to hold JSON."""
    if value == STDOUT or "udx.console" in sys.modules:
        from udx.console import reserve_stdout

        reserve_stdout(value == STDOUT)
    return value


def given_options(ctx: click.Context) -> frozenset[str]:
    """Names of the parameters that the command line gives, as opposed to defaults."""
    source = click.core.ParameterSource.COMMANDLINE
    return frozenset(name for name in ctx.params if ctx.get_parameter_source(name) is source)


def command_line(ctx: click.Context) -> str:
    """Return the command as a shell would run it again, with what the command line gave and no defaults."""
    given = given_options(ctx)
    words = ctx.command_path.split()
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        if parameter.name not in given:
            continue
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[0] if value else (parameter.secondary_opts or parameter.opts)[0])
            continue
        values = value if isinstance(value, tuple | list) else (value,)
        name = max(parameter.opts, key=len)
        for one in values:
            words += [name, str(one)] if isinstance(parameter, click.Option) else [str(one)]
    return shlex.join(words)


def refuse_options(given: frozenset[str], unused: Sequence[str], why: str) -> None:
    """Refuse options that the command does not use as it is called.

    Args:
        given: names of the parameters that were given.
        unused: names of those that are not used.
        why: what they are for, to follow "--name".

    Raises:
        UdxError: one of them is given.
    """
    for name in unused:
        if name in given:
            raise UdxError(f"--{name.replace('_', '-')} {why}; leave it out")


def _label(param: click.Parameter) -> str:
    return param.opts[0] if isinstance(param, click.Option) else (param.metavar or param.name or "").upper()
