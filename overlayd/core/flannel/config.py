"""PREFIX/config: flannel's network configuration as overlayd's settings, and the reverse."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from overlayd.core.flannel.form import FormatError, Json, parse_object
from overlayd.core.mode import UNTYPED, ModeSpec
from overlayd.core.settings import values
from overlayd.core.settings.model import Settings
from overlayd.core.settings.problem import Problem
from overlayd.core.settings.validation import validate

# flannel's names and ours. A number of 0 stands for the default, as it does there.
_TEXTS = {
    "Network": "network",
    "SubnetMin": "subnet_min",
    "SubnetMax": "subnet_max",
    "IPv6Network": "ipv6_network",
    "IPv6SubnetMin": "ipv6_subnet_min",
    "IPv6SubnetMax": "ipv6_subnet_max",
}
_NUMBERS = {"SubnetLen": "subnet_len", "IPv6SubnetLen": "ipv6_subnet_len"}
_SWITCHES = {"EnableIPv4": True, "EnableIPv6": False, "EnableNFTables": False}

_KEYS = (*_TEXTS, *_NUMBERS, *_SWITCHES, "Backend")
_FLANNEL_ONLY = ("alloc", "extension", "ipip", "ipsec", "aws-vpc", "gce", "ali-vpc", "tencent-vpc")

DECIDED = (*_TEXTS.values(), *_NUMBERS.values())
"""The settings that the network's configuration alone decides."""


def parse_config(text: str, model: type[Settings]) -> Settings | list[Problem]:
    """The settings that PREFIX/config decides, with defaults for all others; or every mistake in it, by its own names.

    Which of mode, mtu and the mode's settings it decides is in `given`, there and in the section. As in
    flannel, unknown keys are ignored (`ignored_keys` has them), and host bits of a network are masked.
    """
    problems: list[Problem] = []
    try:
        given = _fields(parse_object(text), _KEYS, (), problems)
    except FormatError as error:
        return [Problem((), "", str(error))]
    switches = {name: _typed(given, name, bool, (), problems) for name in _SWITCHES}
    raw: Json = {}
    places: dict[tuple[str | int, ...], tuple[str | int, ...]] = {}
    for names, kind in ((_TEXTS, str), (_NUMBERS, int)):
        for name, ours in names.items():
            value = _typed(given, name, kind, (), problems)
            enabled = switches["EnableIPv6"] if name.startswith("IPv6") else switches["EnableIPv4"] is not False
            if value and enabled:
                raw[ours] = _masked(value) if ours.endswith("network") else str(value)
            places[(ours,)] = (name,)
    mode = _backend(given.get("Backend", {"Type": UNTYPED}), model.modes, raw, places, problems)
    for switch, name in (("EnableIPv4", "network"), ("EnableIPv6", "ipv6_network")):
        wanted = switches[switch] if switches[switch] is not None else _SWITCHES[switch]
        if wanted and name not in raw and not problems:
            problems.append(Problem(places[(name,)], "", f"is missing; give a network, or set {switch} to false"))
    if problems:
        return problems
    result = validate({**raw, "mode": mode}, model)
    if isinstance(result, Settings):
        return result
    return [Problem(places.get(one.path, one.path), one.value, one.text) for one in result]


def _backend(
    found: Any, modes: Mapping[str, ModeSpec[Any]], raw: Json, places: dict[Any, Any], problems: list[Problem]
) -> str:
    """Read the Backend object into `raw`; its type."""
    if not isinstance(found, dict):
        problems.append(Problem(("Backend",), "", 'is not an object; write {"Type": "vxlan"}'))
        return ""
    mode = _mode(found, modes)
    if mode is None:
        name = next((value for key, value in found.items() if key.lower() == "type"), "")
        is_flannels = isinstance(name, str) and name.lower() in _FLANNEL_ONLY
        text = "is a flannel backend that overlayd does not have" if is_flannels else "is not a backend of overlayd"
        text = f"{text}; use {', '.join(modes)}"
        problems.append(Problem(("Backend", "Type"), str(name)[:40], text))
        return ""
    given = _fields(found, _backend_keys(mode), ("Backend",), problems)
    for option, field in mode.options:
        assert mode.section is not None  # a mode with options has a section
        default = mode.section.fields[field].default
        kind = type(default) if isinstance(default, int) else str
        value = _typed(given, option, kind, ("Backend",), problems)
        places[mode.key, field] = ("Backend", option)
        if value or isinstance(value, bool):
            raw.setdefault(mode.key, {})[field] = value if kind is str else str(value).lower()
    places[("mtu",)] = ("Backend", "MTU")
    if mtu := _typed(given, "MTU", int, ("Backend",), problems):
        raw["mtu"] = str(mtu)
    return mode.name


def _mode(backend: Json, modes: Mapping[str, ModeSpec[Any]]) -> ModeSpec[Any] | None:
    """The mode that a Backend object names, in any case as in flannel."""
    name = next((value for key, value in backend.items() if key.lower() == "type"), None)
    return modes.get(name.lower()) if isinstance(name, str) else None


def _backend_keys(mode: ModeSpec[Any]) -> tuple[str, ...]:
    return ("Type", *(option for option, _ in mode.options), "MTU")


def ignored_keys(text: str, modes: Mapping[str, ModeSpec[Any]]) -> list[str]:
    """The keys in a valid PREFIX/config that have no meaning here, each with a hint."""
    found = parse_object(text)
    unknown = _unknown(found, _KEYS, "")
    backend = next((value for key, value in found.items() if key.lower() == "backend"), None)
    if isinstance(backend, dict) and (mode := _mode(backend, modes)) is not None:
        unknown += _unknown(backend, _backend_keys(mode), "Backend.")
    return unknown


def config_text(settings: Settings) -> str:
    """PREFIX/config for these settings: what differs from flannel's defaults, under flannel's names."""
    config: Json = {}
    for names in (_TEXTS, _NUMBERS):
        for name, ours in names.items():
            value = getattr(settings, ours)
            if value is not None:
                config[name] = value if isinstance(value, int) else str(value)
    if settings.network is None:
        config["EnableIPv4"] = False
    if settings.ipv6_network is not None:
        config["EnableIPv6"] = True
    backend: Json = {"Type": settings.mode}
    for option, field in settings.spec.options:
        if settings.section is not None and field in settings.section.given:
            backend[option] = values.plain(getattr(settings.section, field))
    if settings.mtu is not None:
        backend["MTU"] = settings.mtu
    return json.dumps({**config, "Backend": backend}, separators=(",", ":"))


def _masked(network: str) -> str:
    """A network without host bits; what is not a network stays, and is refused later."""
    try:
        return str(ip_network(network, strict=False)) if "/" in network else network
    except ValueError:
        return network


def _unknown(found: Json, known: Sequence[str], at: str) -> list[str]:
    names = {name.lower() for name in known}
    unknown = []
    for name in found:
        if name.lower() not in names:
            close = difflib.get_close_matches(name, known, 1)
            unknown.append(f"{at}{name[:60]}" + (f" (did you mean {close[0]}?)" if close else ""))
    return unknown


def _fields(found: Json, known: Sequence[str], at: tuple[str, ...], problems: list[Problem]) -> Json:
    """The known keys of the object, in their known spelling; one that is given twice is a problem."""
    spelling = {name.lower(): name for name in known}
    given: Json = {}
    for name, value in found.items():
        if name.lower() not in spelling:
            continue
        if spelling[name.lower()] in given:
            problems.append(Problem((*at, name), "", "is given twice; keep one"))
        else:
            given[spelling[name.lower()]] = value
    return given


def _typed(given: Json, name: str, kind: type, at: tuple[str, ...], problems: list[Problem]) -> Any:
    """The value if it is of the kind; null is absence, as in Go."""
    value = given.get(name)
    if value is None or type(value) is kind:
        return value
    words = {str: "text", int: "a whole number", bool: "true or false"}
    problems.append(Problem((*at, name), json.dumps(value)[:60], f"is not {words[kind]}"))
    return None
