"""Steps of a plan that do nothing but read, write and work in place."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from udx.runtime.arena import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing(Step):
    replaces: dict[str, str] = field(default_factory=dict)

    def in_place(self) -> Mapping[str, str]:
        return self.replaces


def doing(name: str, reads: str, writes: str, **replaces: str) -> Doing:
    return Doing(name=name, inputs=tuple(reads.split()), outputs=tuple(writes.split()), replaces=replaces)
