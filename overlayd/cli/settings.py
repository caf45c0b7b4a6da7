"""Settings as flags of a command, and the other sources of settings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from overlayd.backend.modes import SETTINGS
from overlayd.core.settings.options import Option, options
from overlayd.system.config_file import Sources

DEFAULT_CONFIG = Path("/etc/overlayd/overlayd.yaml")

_ALIASES = {"--forward-rules": "--iptables-forward-rules"}  # flannel's name; here it is nftables


def add_flags(parser: argparse.ArgumentParser, *sections: str) -> None:
    """--config and a flag for every setting, or for those of these sections alone."""
    parser.add_argument("--config", metavar="FILE", type=Path, help=f"YAML file (default: {DEFAULT_CONFIG})")
    group = parser.add_argument_group("settings")
    for option in _chosen(sections):
        _add(group, option)
    parser.set_defaults(sections=sections)


def sources(given: argparse.Namespace) -> Sources:
    """The sources of settings for this command line."""
    file = given.config
    if file is None and os.environ.get("OVERLAYD_CONFIG"):
        file = Path(os.environ["OVERLAYD_CONFIG"])
    if file is None and DEFAULT_CONFIG.exists():
        file = DEFAULT_CONFIG
    values = {option.path: getattr(given, "/".join(option.path)) for option in _chosen(given.sections)}
    return Sources(file, {path: value for path, value in values.items() if value is not None}, dict(os.environ))


def _chosen(sections: Sequence[str]) -> Iterable[Option]:
    return (option for option in options(SETTINGS) if not sections or option.path[0] in sections)


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    default = "" if option.default is None or "default:" in option.description else f" (default: {_shown(option)})"
    names = [option.flag] + ([_ALIASES[option.flag]] if option.flag in _ALIASES else [])
    text = (option.description + default).replace("%", "%%")
    destination = "/".join(option.path)
    if option.boolean:  # --ip-masq and --ip-masq=false, as with flannel
        group.add_argument(*names, dest=destination, nargs="?", const="true", metavar="true|false", help=text)
    else:
        group.add_argument(*names, dest=destination, metavar=option.path[-1].upper(), help=text)


def _shown(option: Option) -> str:
    return str(option.default).lower() if option.boolean else str(option.default)
