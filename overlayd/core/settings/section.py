"""What every part of the configuration is: a frozen mapping of settings, each with a default, and no unknown keys.

1. declare    class ProbeSettings(Section): port: int = setting(8286, values.integer(0, 65535), "UDP port of ...")
2. parse      nested text becomes a section, or a SectionError that lists every mistake with its place
3. use        an instance holds what was given; what was not is its class's

pydantic would do this, too, for 90 ms and 7 MB of a daemon that starts.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, NoReturn, Self, TypeVar

from overlayd.core.settings.problem import Problem, SectionError

T = TypeVar("T")

Parser = Callable[[object], T]
"""From what a source holds, or a value that has its type already, to the value. Raises ValueError with the remedy."""


class Setting(NamedTuple):
    """One setting as its section declares it."""

    default: Any
    parse: Parser[Any]
    description: str

    @property
    def is_flag(self) -> bool:
        """Whether it is true or false."""
        return isinstance(self.default, bool)


def setting(default: T, parse: Parser[T], description: str = "") -> T:
    """Declare one. The description is its help text."""
    made: Any = Setting(default, parse, description)
    return made  # type: ignore[no-any-return]


class Section:
    """A mapping of the configuration. What it offers beside its settings cannot be a setting's name."""

    fields: ClassVar[Mapping[str, Setting]] = {}
    """The settings by name, in the order in which they are declared."""

    def __init_subclass__(cls) -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Setting)}
        cls.fields = MappingProxyType({**cls.fields, **own})
        for name, declared in own.items():
            setattr(cls, name, declared.default)

    def __init__(self, /, **raw: object) -> None:
        """Parse these values. Raises SectionError."""
        problems: list[Problem] = []
        for name, declared in self.fields.items():
            if name in raw:
                self.__dict__[name] = _parse(name, declared.parse, raw[name], problems)
        problems += [self._unknown(key) for key in raw if key not in self.fields]
        if problems:
            raise SectionError(problems)

    @classmethod
    def parse(cls, value: object) -> Self:
        """A mapping as this section; a `Parser` like those of single values."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("is not a mapping; write `key: value` lines below it")
        return cls(**value)

    @classmethod
    def _unknown(cls, key: str) -> Problem:
        close = difflib.get_close_matches(key, cls.fields, 1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(cls.fields)}"
        return Problem((key,), "", f"unknown key; {hint}")

    @property
    def given(self) -> Mapping[str, Any]:
        """The values that were given; defaults are not among them."""
        return MappingProxyType(self.__dict__)

    def values(self) -> dict[str, Any]:
        """All values by name."""
        return {name: getattr(self, name) for name in self.fields}

    def changed(self, /, **values: object) -> Self:
        """A copy with these values, which have their types already."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__ | values)
        return made

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: settings are not changed in place; use `changed`")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Section) and self.values() == other.values()

    def __hash__(self) -> int:
        return hash(tuple(self.values().values()))

    def __str__(self) -> str:
        return " ".join(f"{name}={value!r}" for name, value in self.values().items())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


def rows(parse: Parser[T]) -> Parser[tuple[T, ...]]:
    """A list, each entry of which is parsed by `parse`."""

    def accept(value: object) -> tuple[T, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError("is not a list; write one `- subnet: ...` for each host")
        problems: list[Problem] = []
        found = tuple(_parse(index, parse, one, problems) for index, one in enumerate(value))
        if problems:
            raise SectionError(problems)
        return found

    return accept


def _parse(key: str | int, parse: Parser[Any], value: object, problems: list[Problem]) -> Any:
    """The value; None, and its problems, if there are any."""
    try:
        return parse(value)
    except SectionError as error:
        problems += [Problem((key, *one.path), one.value, one.text) for one in error.problems]
    except ValueError as error:
        problems.append(Problem((key,), value if isinstance(value, str) else "", str(error)))
    return None
