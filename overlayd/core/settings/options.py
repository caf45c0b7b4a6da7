"""Settings as options: the flag, the variable and the help of each that takes a single value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from overlayd.core.settings.model import Settings
from overlayd.core.settings.section import Section


@dataclass(frozen=True, slots=True)
class Option:
    """One setting that takes a single value: as a flag, in the environment and in YAML."""

    path: tuple[str, ...]
    description: str
    default: object
    boolean: bool

    @property
    def flag(self) -> str:
        """--vxlan-port"""
        return "--" + "-".join(self.path).replace("_", "-")

    @property
    def variable(self) -> str:
        """OVERLAYD_VXLAN_PORT"""
        return "OVERLAYD_" + "_".join(self.path).upper()


def options(model: type[Settings]) -> Iterator[Option]:
    """Every setting but the lease table, in the order in which the model declares them."""

    def walk(section: type[Section], prefix: tuple[str, ...]) -> Iterator[Option]:
        for key, declared in section.fields.items():
            if isinstance(declared.default, Section):
                yield from walk(type(declared.default), (*prefix, key))
            elif key != "leases":
                yield Option((*prefix, key), declared.description, declared.default, declared.is_flag)

    return walk(model, ())
