"""Settings as options: the flag, the variable and the help of each that takes a single value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from overlayd.core.settings.model import Settings


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

    def walk(section: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[Option]:
        for key, info in section.model_fields.items():
            if isinstance(info.default, BaseModel):
                yield from walk(type(info.default), (*prefix, key))
            elif key != "leases":
                yield Option((*prefix, key), info.description or "", info.default, info.annotation is bool)

    return walk(model, ())
