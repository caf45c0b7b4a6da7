"""`overlayctl etcd init`, `lease reserve` and `lease release`: an operator's changes in etcd, without a daemon."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from overlayd.backend.modes import SETTINGS
from overlayd.cli.arguments import Command, Parser, print_json
from overlayd.cli.common import add_common
from overlayd.cli.settings import add_flags, sources
from overlayd.core.address import Address, Network
from overlayd.core.errors import UsageError
from overlayd.core.flannel.config import config_text
from overlayd.core.settings import values
from overlayd.core.settings.model import Settings
from overlayd.core.settings.section import Setting
from overlayd.core.settings.validation import validate
from overlayd.registry.base import RegistryError
from overlayd.registry.etcd import admin
from overlayd.registry.etcd.client import EtcdClient, make_client
from overlayd.registry.etcd.messages import EtcdError
from overlayd.system.config_file import load
from overlayd.system.control_client import ControlError, ask
from overlayd.system.state_dir import StateDir

_SUBNETS = ("subnet_len", "subnet_min", "subnet_max", "ipv6_subnet_len", "ipv6_subnet_min", "ipv6_subnet_max")


def configure(parser: Parser) -> None:
    """The command's verbs."""
    parser.description = "The network configuration in etcd."
    parser.add_commands((Command("init", "write PREFIX/config in flannel's format", __name__, "_configure_init"),))


def _configure_init(init: Parser) -> None:
    init.description = "Write PREFIX/config in flannel's format."
    add_common(init, "json")
    network = init.add_argument_group("the network")
    network.add_argument("--network", help="the IPv4 network, such as 10.1.0.0/16")
    network.add_argument("--ipv6-network", help="the IPv6 network, such as fd00:10:1::/48")
    for name in _SUBNETS:
        network.add_argument(f"--{name.replace('_', '-')}", help=Settings.fields[name].description)
    network.add_argument("--backend", required=True, help=", ".join(SETTINGS.modes))
    network.add_argument("--mtu", help="MTU of the overlay in bytes")
    for name, (modes, option) in _mode_options().items():
        flag, description = f"--{name.replace('_', '-')}", f"{', '.join(modes)}: {option.description}"
        if option.is_flag:
            network.add_argument(flag, action="store_const", const="true", help=description)
        else:
            network.add_argument(flag, help=description)
    init.add_argument("--force", action="store_true", help="replace a different configuration")
    add_flags(init, "etcd")
    init.set_defaults(run=_init)


def _mode_options() -> dict[str, tuple[list[str], Setting]]:
    """The settings of modes that PREFIX/config can hold: by name, the modes that have it, and the first one's."""
    found: dict[str, tuple[list[str], Setting]] = {}
    for mode in SETTINGS.modes.values():
        for _, name in mode.options:
            assert mode.section is not None  # a mode with options has a section
            found.setdefault(name, ([], mode.section.fields[name]))[0].append(mode.name)
    return found


def configure_reserve(parser: Parser) -> None:
    """The arguments of `lease reserve`."""
    parser.description = "Make a lease permanent, or reserve a free subnet (for one host, or so that nobody gets it)."
    add_common(parser, "json")
    parser.add_argument("subnet", nargs="+", type=_network, help="10.1.7.0/24; in a dual-stack network both subnets")
    parser.add_argument("--public-ip", action="append", default=[], type=_public, help="of the host to reserve it for")
    add_flags(parser, "etcd")
    parser.set_defaults(run=_reserve)


def configure_release(parser: Parser) -> None:
    """The arguments of `lease release`."""
    parser.description = "Delete a lease or a reservation; without a subnet this host's, whose daemon must be stopped."
    add_common(parser, "json")
    parser.add_argument("subnet", nargs="*", type=_network)
    add_flags(parser, "etcd", "state_dir")
    parser.set_defaults(run=_release)


def _network(text: str) -> Network:
    try:
        return ip_network(str(values.network(6 if ":" in text else 4)(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} {error}") from None


def _public(text: str) -> Address:
    try:
        return ip_address(str(values.public(6 if ":" in text else 4)(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} {error}") from None


def _init(given: argparse.Namespace) -> int:
    raw: dict[str, Any] = {"mode": given.backend}
    for name in ("network", "ipv6_network", "mtu", *_SUBNETS):
        raw[name] = getattr(given, name)
    section = {name: value for name in _mode_options() if (value := getattr(given, name)) is not None}
    if section:
        raw[given.backend.replace("-", "_")] = section
    settings = validate(raw, SETTINGS)
    if not isinstance(settings, Settings):
        raise UsageError("\n".join(f"{_flag(one.path)}: {one.value} {one.text}" for one in settings))
    text = config_text(settings)
    return _in_etcd(
        given, lambda client, prefix, _: admin.write_config(client, prefix, text, SETTINGS, force=given.force)
    )


def _flag(path: tuple[str | int, ...]) -> str:
    """--subnet-len for subnet_len, --vni for vxlan.vni."""
    return "--backend" if path == ("mode",) else "--" + str(path[-1]).replace("_", "-")


def _reserve(given: argparse.Namespace) -> int:
    return _in_etcd(
        given, lambda client, prefix, _: admin.reserve(client, prefix, given.subnet, given.public_ip, SETTINGS)
    )


def _release(given: argparse.Namespace) -> int:
    def action(client: EtcdClient, prefix: str, settings: Settings) -> Awaitable[str]:
        node = None
        if not given.subnet:
            _no_daemon(Path(settings.control_socket))
            node = StateDir(Path(settings.state_dir), Path(settings.subnet_file)).node_id()
        return admin.release(client, prefix, given.subnet, node, SETTINGS)

    return _in_etcd(given, action)


def _no_daemon(socket: Path) -> None:
    try:
        ask(socket, "/v1/status")
    except ControlError:
        return
    raise RegistryError("overlayd is running here and would acquire its lease again; stop it first")


def _in_etcd(given: argparse.Namespace, action: Callable[[EtcdClient, str, Settings], Awaitable[str]]) -> int:
    """Do it in the configured etcd, and print the report."""
    found = sources(given)
    settings = load(replace(found, flags={**found.flags, ("registry",): "etcd"}), SETTINGS).settings

    async def run() -> str:
        client = make_client(settings)
        try:
            return await action(client, settings.etcd.prefix, settings)
        except EtcdError as error:
            raise RegistryError(f"etcd: {error}") from None
        finally:
            await client.close()

    report = asyncio.run(run())
    if given.json:
        print_json({"report": report})
    else:
        print(report)
    return 0
