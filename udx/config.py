"""Typed configuration to JSON and back, and single fields changed by name from the command line.

A field whose type is an abstract dataclass holds any of its subclasses: each has a field ``kind`` with a value of its
own as default, which tells them apart in JSON.
"""

import dataclasses
import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from udx.errors import UdxError, did_you_mean

T = TypeVar("T")


def to_plain(config: Any) -> dict[str, Any]:
    """Nested dicts, lists and scalars of a config dataclass, as JSON would give them back."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_plain(kind: type[T], value: Any, where: str) -> T:
    """Rebuild a config dataclass from ``to_plain``; every field must be known, present or have a default.

    Raises:
        UdxError: a field is unknown, missing, or of another type; ``where`` names the source.
    """
    try:
        built: T = _build(kind, value, where)
    except (TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
        raise UdxError(f"{where} does not hold a valid {kind.__name__}: {error}") from error
    return built


def with_override(config: T, assignment: str) -> T:
    """Return ``config`` with one field changed; see ``with_overrides``."""
    return with_overrides(config, [assignment])


def with_overrides(config: T, assignments: Iterable[str]) -> T:
    """Return ``config`` with fields changed, as ``--set a.b=c`` asks; each value is JSON, or else a string.

    The assignments are made in their order. What they give together must be valid, what some of them give need not be.

    Raises:
        UdxError: an assignment has no ``=`` or names no field, or the values do not fit.
    """
    plain, built, fault = to_plain(config), config, None
    for assignment in assignments:
        _assign(plain, assignment)
        try:
            built = from_plain(type(config), plain, f"--set {assignment:.200}")
            plain, fault = to_plain(built), None
        except UdxError as error:
            fault = fault or error
    if fault is not None:
        raise fault
    return built


def has_field(config: Any, path: str) -> bool:
    """Whether a configuration has the field that ``--set path=…`` would change."""
    target: Any = to_plain(config)
    for name in path.split("."):
        if not isinstance(target, dict) or name not in target:
            return False
        target = target[name]
    return True


def _assign(plain: dict[str, Any], assignment: str) -> None:
    """Change one field of a configuration in plain form."""
    path, separator, text = assignment.partition("=")
    if not separator:
        raise UdxError(f"--set {assignment:.200} has no '='; write it as --set part.field=value")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    *parents, last = path.split(".")
    target: Any = plain
    for name in parents:
        target = target.get(name) if isinstance(target, dict) else None
    if not isinstance(target, dict) or last not in target:
        raise UdxError(
            f"--set {assignment:.200}: no field {path!r}{_meant(path, _paths(plain))}; "
            "udx train --help-config lists all fields"
        )
    target[last] = value


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A field of a configuration, for people: its path, what it takes, and its value as JSON."""

    path: str
    type: str
    value: str


def describe_fields(config: Any, prefix: str = "") -> Iterator[Field]:
    """Every field that ``with_override`` changes, in order."""
    kind: Any = type(config)
    hints = _hints(kind)
    for field in dataclasses.fields(kind):
        path, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from describe_fields(value, f"{path}.")
        elif isinstance(value, Mapping) and any(map(dataclasses.is_dataclass, value.values())):
            for name, part in value.items():
                yield from describe_fields(part, f"{path}.{name}.")
        else:
            yield Field(path, _type_text(hints[field.name]), json.dumps(to_plain_value(value)))


def to_plain_value(value: Any) -> Any:
    """A field's value as JSON holds it."""
    return dict(value) if isinstance(value, Mapping) else value


def _type_text(kind: Any) -> str:
    """What a field takes, in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        said = [_type_text(item) for item in arguments if item is not type(None)]
        return " or ".join(said + (["null"] if type(None) in arguments else []))
    if origin is tuple:
        many = arguments[-1] is Ellipsis
        return f"list of {_type_text(arguments[0])}" if many else f"[{', '.join(map(_type_text, arguments))}]"
    if origin in (dict, Mapping):
        return f"names with {_type_text(arguments[1])}"
    names = {bool: "true or false", str: "text", Any: "any"}
    return names.get(kind) or str(getattr(kind, "__name__", kind))


def _meant(path: str, known: list[str]) -> str:
    """The fields that a wrong path may have meant: of a similar path, or of the same last name."""
    last = path.rsplit(".", 1)[-1]
    named = [name for name in known if name.rsplit(".", 1)[-1] == last]
    return f" (did you mean {' or '.join(named[:3])}?)" if named else did_you_mean(path, known)


def _build(kind: Any, value: Any, where: str) -> Any:
    if kind in (bool, int, str):  # nearly all fields, so they come first
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, not {value!r:.100}")
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"expected fields of {kind.__name__}, not {value!r:.100}")  # type: ignore[union-attr]
        if inspect.isabstract(kind):
            return _build(_member(typing.cast(type, kind), value), value, where)
        hints = _hints(typing.cast(type, kind))
        unknown = sorted(set(value) - {field.name for field in dataclasses.fields(kind)})
        if unknown:
            raise TypeError(f"unknown field {unknown[0]!r} of {kind.__name__}")  # type: ignore[union-attr]
        return kind(**{name: _build(hints[name], item, where) for name, item in value.items()})  # type: ignore[operator]
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _build(next(item for item in arguments if item is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{value!r} is not one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, not {value!r:.100}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_build(item, part, where) for item, part in zip(kinds, value, strict=True))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError(f"expected names with values, not {value!r:.100}")
        return {str(key): _build(arguments[1], item, where) for key, item in value.items()}
    if kind is Any:
        return value
    if kind is float and type(value) in (int, float):
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, not {value!r:.100}")
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, not {value!r:.100}")
    return value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Types of a dataclass's fields; there are as many of these as there are classes."""
    return typing.get_type_hints(kind)


def _member(family: type, value: dict[str, Any]) -> type:
    """The subclass of an abstract dataclass whose ``kind`` is that of ``value``."""
    concrete = [member for member in _descendants(family) if not inspect.isabstract(member)]
    # A class with slots stands here twice, until its forerunner, which lacks them, is collected; the later one counts.
    members = {kind: member for member in concrete if (kind := _kind(member)) is not None}
    if value.get("kind") not in members:
        raise TypeError(f"kind {value.get('kind')!r} is not one of {', '.join(sorted(members))}")
    return members[value["kind"]]


def _descendants(family: type) -> Iterator[type[Any]]:
    children: list[type[Any]] = family.__subclasses__()
    for member in children:
        yield member
        yield from _descendants(member)


def _kind(member: type[Any]) -> str | None:
    fields = dataclasses.fields(member) if dataclasses.is_dataclass(member) else ()
    return next((str(field.default) for field in fields if field.name == "kind"), None)


def _paths(plain: dict[str, Any], prefix: str = "") -> list[str]:
    paths: list[str] = []
    for name, value in plain.items():
        paths += _paths(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [prefix + name]
    return paths
