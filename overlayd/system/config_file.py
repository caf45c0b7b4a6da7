"""The sources of settings: flags, then the environment, then the YAML file, each value with its place.

Every scalar is read as text, whatever YAML makes of it otherwise: `12:34:56:00:00:01` is a MAC, not a number in base
60, and a value means the same in all three places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from overlayd.core.errors import UsageError
from overlayd.core.settings.model import Settings
from overlayd.core.settings.options import Option, options
from overlayd.core.settings.problem import Path as Place
from overlayd.core.settings.problem import Problem, dotted
from overlayd.core.settings.validation import validate
from overlayd.core.text import printable
from overlayd.system.errors import HostError
from overlayd.system.files import read_text

_DEPTH = 16  # levels of nesting; the configuration has three


class ConfigError(UsageError):
    """The configuration is wrong: one line for each mistake, with file, line, place, value and remedy."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = [printable(line) for line in lines]
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True, slots=True)
class Sources:
    """Where settings are taken from; loading them again is a reload."""

    file: Path | None
    flags: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    """Values given on the command line, by path."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration and the files it came from."""

    settings: Settings
    files: tuple[Path, ...]
    overridden: tuple[str, ...] = ()
    """Values that a flag replaces with others, one line for each."""


def load(sources: Sources, model: type[Settings]) -> Loaded:
    """Read, merge and validate against this model. Raises ConfigError with everything that is wrong."""
    files: list[Path] = []
    places: dict[Place, str] = {}
    raw: dict[str, Any] = {}
    errors: list[str] = []
    if sources.file is not None:
        files.append(sources.file)
        raw = _read_yaml(sources.file, places, errors)
    known = {option.path: option for option in options(model)}
    _overlay_environment(sources.environment, known, raw, places, errors)
    overridden: list[str] = []
    for option_path, value in sources.flags.items():
        former = _put(raw, option_path, value)
        if former and former != value:
            name, flag = dotted(option_path), known[option_path].flag
            overridden.append(printable(f"{places[option_path]}: {name}: {former} is not used; {flag} is {value}"))
        places[option_path] = known[option_path].flag
    leases_file = raw.get("leases_file")
    if isinstance(leases_file, str) and leases_file not in ("", "null", "~"):
        path = (sources.file.parent if sources.file is not None else Path()) / leases_file
        files.append(path)
        if raw.get("leases"):
            place = places.get(("leases_file",), "leases_file")
            errors.append(f"{place}: leases_file: {leases_file} is given beside `leases`; keep one of the two")
        else:
            errors += _read_leases(path, raw, places)
    if errors:  # a tree that could not be read whole would only give misleading further errors
        raise ConfigError(errors)
    result = validate(raw, model)
    if isinstance(result, Settings):
        return Loaded(result, tuple(files), tuple(overridden))
    raise ConfigError([_line(problem, places, known) for problem in result])


def lone_path(sources: Sources, key: str) -> Path:
    """The path that these sources give to the setting `key`, whatever else is wrong in them."""
    if (key,) in sources.flags:
        return Path(sources.flags[key,])
    if (variable := f"OVERLAYD_{key.upper()}") in sources.environment:
        return Path(sources.environment[variable])
    raw = _read_yaml(sources.file, {}, []) if sources.file is not None else {}
    named = raw.get(key)
    return Path(named if isinstance(named, str) and named.strip() else str(getattr(Settings, key)))


def _line(problem: Problem, places: Mapping[Place, str], known: Mapping[tuple[str, ...], Option]) -> str:
    """The problem with the nearest known place before it; a flag or a variable names itself."""
    path = problem.path
    while path and path not in places:
        path = path[:-1]
    place = places.get(path, "")
    if problem.path in known and place in (known[problem.path].flag, known[problem.path].variable):  # type: ignore[index]
        return f"{place}: {problem.value} {problem.text}".replace("  ", " ")
    return f"{place}: {problem}" if place else str(problem)


def _read_leases(path: Path, raw: dict[str, Any], places: dict[Place, str]) -> list[str]:
    errors: list[str] = []
    table = _read_yaml(path, places, errors)
    errors += [
        f"{path}: {key}: unknown key; a lease file holds `leases:` and nothing else" for key in table if key != "leases"
    ]
    if "leases" in table:
        raw["leases"] = table["leases"]
    return errors


def _overlay_environment(
    environment: Mapping[str, str],
    known: Mapping[tuple[str, ...], Option],
    raw: dict[str, Any],
    places: dict[Place, str],
    errors: list[str],
) -> None:
    variables = {option.variable: option.path for option in known.values()}
    for name, value in environment.items():
        if not name.startswith("OVERLAYD_") or name in ("OVERLAYD_CONFIG", "OVERLAYD_REQUIRE_PRIVILEGED"):
            continue
        if name not in variables:
            errors.append(f"{name}: unknown variable; see overlayd --help for those there are")
            continue
        _put(raw, variables[name], value)
        places[variables[name]] = name


def _put(raw: dict[str, Any], path: tuple[str, ...], value: str) -> Any:
    """Set the value; the former one."""
    for key in path[:-1]:
        if not isinstance(raw.get(key), dict):  # nothing, or a mistake of the file's that the flag replaces
            raw[key] = {}
        raw = raw[key]
    former, raw[path[-1]] = raw.get(path[-1]), value
    return former


def _read_yaml(path: Path, places: dict[Place, str], errors: list[str]) -> dict[str, Any]:
    try:
        node = yaml.compose(read_text(path), Loader=yaml.SafeLoader)
    except HostError as error:
        errors.append(str(error))
        return {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        errors.append(f"{where}: is not valid YAML: {getattr(error, 'problem', None) or error}")
        return {}
    except RecursionError:
        errors.append(f"{path}: is nested too deeply")
        return {}
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        errors.append(f"{path}:{node.start_mark.line + 1}: is not a mapping; write `key: value` lines")
        return {}
    value = _plain(node, (), path, places, errors)
    assert isinstance(value, dict)
    return value


def _plain(node: yaml.Node, at: Place, file: Path, places: dict[Place, str], errors: list[str]) -> Any:
    """The node as text, lists and mappings, noting the line of each; aliases are followed, to a bounded depth."""
    line = f"{file}:{node.start_mark.line + 1}"
    if len(at) > _DEPTH:
        errors.append(f"{line}: is nested too deeply")
        return ""
    if at:
        places[at] = line
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            if key in mapping:
                errors.append(f"{file}:{key_node.start_mark.line + 1}: {dotted((*at, key))}: is given twice; keep one")
            mapping[key] = _plain(value_node, (*at, key), file, places, errors)
            places[(*at, key)] = f"{file}:{key_node.start_mark.line + 1}"
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*at, index), file, places, errors) for index, item in enumerate(node.value)]
    return node.value
