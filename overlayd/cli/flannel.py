"""flannel's command line and environment, for operators who come from it.

- -iface=eth0 is --iface=eth0: Go's flags begin with one dash or two.
- FLANNELD_IFACE=eth0 is --iface=eth0, unless OVERLAYD_IFACE is set.
- Options that overlayd has under another name, has no use for, or does not support are known, and their help says so.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence

from overlayd.cli.arguments import Parser
from overlayd.core.errors import UsageError

_PREFIX, _OWN_PREFIX = "FLANNELD_", "OVERLAYD_"
_VERBOSE = 4
"""The level of klog's -v from which flannel logs what overlayd logs at debug."""

_NO_KUBERNETES = "overlayd has no Kubernetes subnet manager; use --registry etcd or static"
UNSUPPORTED = {
    "kube-subnet-mgr": _NO_KUBERNETES,
    "kube-api-url": _NO_KUBERNETES,
    "kube-annotation-prefix": _NO_KUBERNETES,
    "kubeconfig-file": _NO_KUBERNETES,
    "set-node-network-unavailable": _NO_KUBERNETES,
    "net-config-path": "the network configuration is in etcd, or in the settings network and mode",
}
"""Options of flannel's, and what to use instead."""
_IGNORED = {"iptables-resync": "no effect: rules that another program changes are restored at once"}


def add_flags(parser: Parser) -> None:
    """The options that only flannel has."""
    group = parser.add_argument_group(
        "flannel's options",
        "flannel's other options work under their own names, with one dash or two.\n"
        "A variable FLANNELD_IFACE is --iface, unless OVERLAYD_IFACE is set.",
    )
    group.add_argument("-v", "--v", type=int, metavar="LEVEL", help=f"{_VERBOSE} or more: --log-level debug")
    for name, effect in _IGNORED.items():
        group.add_argument(f"--{name}", metavar="SECONDS", help=effect)
    for name, reason in UNSUPPORTED.items():
        group.add_argument(f"--{name}", nargs="?", const="true", metavar="VALUE", help=f"not supported: {reason}")


def arguments(given: Sequence[str], environment: Mapping[str, str], parser: Parser) -> tuple[list[str], list[str]]:
    """The command line with what flannel's variables say before it; and remarks about those variables."""
    flags: list[str] = []
    remarks: list[str] = []
    for variable, flag, value in _variables(environment):
        if flag not in parser.flags:
            remarks.append(f"{variable}: overlayd has no option {flag}; ignored")
        elif _OWN_PREFIX + variable.removeprefix(_PREFIX) in environment:
            remarks.append(f"{variable}: ignored, {_OWN_PREFIX}{variable.removeprefix(_PREFIX)} is set")
        else:
            flags.append(f"{flag}={value}")
            remarks.append(f"{variable}: used as {flag}")
    return [*flags, *map(_two_dashes, given)], remarks


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for name, value in sorted(environment.items()):
        if name.startswith(_PREFIX) and value:
            yield name, "--" + name.removeprefix(_PREFIX).lower().replace("_", "-"), value


def _two_dashes(word: str) -> str:
    return f"-{word}" if re.match(r"-[a-z][a-z0-9-]+(=|$)", word) else word


def apply(given: argparse.Namespace) -> None:
    """Do what flannel's own options ask for. Raises UsageError for one that is not supported."""
    for name in UNSUPPORTED:
        if getattr(given, name.replace("-", "_")) not in (None, "false"):
            raise UsageError(f"--{name} is not supported: {UNSUPPORTED[name]}")
    if given.v is not None and given.v >= _VERBOSE and given.log_level is None:
        given.log_level = "debug"
