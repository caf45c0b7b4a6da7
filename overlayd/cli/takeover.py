"""`overlayctl adopt` and `overlayctl leave`: a host that was flannel's becomes overlayd's, and back.

adopt   1. find      flanneld's process, its lease in etcd, its devices, routes and rules
        2. stop      flanneld, if systemd runs it
        3. apply     overlayd's kernel state: devices are renamed, routes replaced in place
        4. remove    flannel's rules, which overlayd's have replaced by now
        5. start     overlayd, if systemd ran flanneld; at each boot, too, instead of flanneld
leave   1. stop      overlayd, if systemd runs it
        2. etcd      the lease stays, overlayd's record goes
        3. apply     flannel's kernel state
        4. start     flanneld, if systemd ran overlayd; at each boot, too

In vxlan and host-gw mode the kernel keeps forwarding meanwhile. Where systemd does not run the one daemon, the operator
starts the other.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from overlayd.backend.modes import MODES, SETTINGS
from overlayd.cli.account import Account
from overlayd.cli.arguments import Parser
from overlayd.cli.common import add_common
from overlayd.cli.logs import set_up
from overlayd.cli.planning import preview
from overlayd.cli.settings import add_flags, sources
from overlayd.core.kernel.flannel_rules import names
from overlayd.core.leases.subnet_env import masquerades
from overlayd.core.settings.model import Settings
from overlayd.reconcile.reconciler import Reconciler
from overlayd.registry.base import RegistryError
from overlayd.registry.etcd import admin
from overlayd.registry.etcd.client import make_client
from overlayd.registry.etcd.messages import EtcdError
from overlayd.system import nft
from overlayd.system.config_file import load
from overlayd.system.files import read_if_any
from overlayd.system.instance_lock import InstanceLock
from overlayd.system.kernel import Kernel
from overlayd.system.netlink import Netlink
from overlayd.system.processes import DaemonProcess, find, of
from overlayd.system.state_dir import StateDir
from overlayd.system.units import Handover, known

_EXIT_STATUS = "exit status: 0 success; 1 the host or etcd refused something; 2 usage error or wrong configuration"
_FLANNEL_UNITS = ("flanneld.service", "flannel.service")


def configure(parser: Parser) -> None:
    """The arguments of `adopt`."""
    parser.description = (
        "Take this host over from flannel: stop flanneld, keep its lease and VTEP MAC, turn its devices and routes into"
        " overlayd's in place, remove its rules, and start overlayd. If systemd does not run flanneld, stop it before,"
        " and start overlayd afterwards."
    )
    parser.epilog = _EXIT_STATUS
    parser.add_argument("--from", dest="origin", choices=["flannel"], required=True, help="whose host it was")
    parser.add_argument("--keep-rules", action="store_true", help="leave flannel's iptables chains and nftables tables")
    _add_options(parser)
    add_flags(parser)
    parser.set_defaults(run=_adopt)


def configure_leave(parser: Parser) -> None:
    """The arguments of `leave`."""
    parser.description = (
        "Give this host back to flannel: stop overlayd, leave its lease to flanneld, turn its devices and routes into"
        " flannel's in place, remove everything else that overlayd made, and start flanneld. If systemd does not run"
        " overlayd, stop it before, and start flanneld afterwards."
    )
    parser.epilog = _EXIT_STATUS
    _add_options(parser)
    add_flags(parser)
    parser.set_defaults(run=_leave)


def _add_options(parser: Parser) -> None:
    add_common(parser, "json")
    parser.add_argument("--dry-run", "--check", action="store_true", help="print what would be done, change nothing")


def _settings(given: argparse.Namespace) -> Settings:
    """The configuration; what is done is printed by the command itself, so only errors are logged."""
    settings = load(sources(given), SETTINGS).settings
    set_up(settings.changed(log_level="error"))
    return settings


def _handover(running: DaemonProcess | None, successors: Sequence[str]) -> Handover | None:
    """To the first of these units that there is; None where systemd does not run the daemon."""
    if running is None or running.unit is None:
        return None
    return Handover(running.unit, next(filter(known, successors), None))


# --- adopt ------------------------------------------------------------------------------------------------------------


def _adopt(given: argparse.Namespace) -> int:
    account = Account(json=given.json, dry_run=given.dry_run)
    return asyncio.run(_adopt_host(_settings(given), account, keep_rules=given.keep_rules))


async def _adopt_host(settings: Settings, account: Account, *, keep_rules: bool) -> int:
    lock, flanneld = InstanceLock(Path(settings.control_socket)), find("flanneld")
    overlayd = lock.holder()
    async with AsyncExitStack() as closing:
        if not account.dry_run and overlayd is None:
            closing.enter_context(lock)
        found = await preview(settings, closing)
        node, reconciler = found.node, found.reconciler
        plan = await reconciler.plan()
        rules = () if keep_rules else plan.flannel_rules
        unit = f"overlayd@{node.mode}.service"
        handover = _handover(flanneld, [unit])
        account.say("mode", node.mode)
        account.say("lease", str(node.lease))
        account.process("flanneld", flanneld)
        account.steps("kernel", [] if overlayd else plan.operations)
        for name in names(plan.flannel_rules):
            account.add("rules", name, "kept" if keep_rules else "removed")
        if not settings.ip_masq and masquerades(read_if_any(Path(settings.subnet_file)) or ""):
            account.add(
                "remarks", "flanneld masquerades (FLANNEL_IPMASQ=true); set ip_masq: true for overlayd to do so"
            )
        account.steps("systemd", handover.commands if handover is not None else [])
        if account.dry_run:
            return account.end()
        if flanneld is not None:
            flanneld.stop()
        failures = [str(one) for one in await reconciler.compare()] if overlayd is None else []
        if not failures:
            await nft.remove_flannels(rules)
    return account.end(failures, handover, f"systemctl enable --now {unit}" if overlayd is None else None)


# --- leave ------------------------------------------------------------------------------------------------------------


def _leave(given: argparse.Namespace) -> int:
    return asyncio.run(_leave_host(_settings(given), Account(json=given.json, dry_run=given.dry_run)))


async def _leave_host(settings: Settings, account: Account) -> int:
    lock = InstanceLock(Path(settings.control_socket))
    holder = lock.holder()
    overlayd = of("overlayd", holder) if holder is not None else None
    handover = _handover(overlayd, _FLANNEL_UNITS)
    account.process("overlayd", overlayd)
    report_on_lease = await _hand_over(settings, dry_run=True)  # nothing has been stopped if etcd is out of reach
    if overlayd is not None and not account.dry_run:
        overlayd.stop()
    async with Netlink() as netlink, AsyncExitStack() as closing:
        if not account.dry_run:
            closing.enter_context(lock)
            report_on_lease = await _hand_over(settings, dry_run=False)
        account.say("lease", report_on_lease)
        reconciler = Reconciler(Kernel(netlink))
        account.steps("kernel", await reconciler.give_back(dry_run=account.dry_run))
    account.steps("systemd", handover.commands if handover is not None else [])
    ours = " ".join(f"overlayd@{mode.name}" for mode in MODES)
    step = f"systemctl disable {ours} && systemctl enable --now flanneld"
    return account.end([str(one) for one in reconciler.failures], handover, step)


async def _hand_over(settings: Settings, *, dry_run: bool) -> str:
    if settings.registry == "static":
        return "is in this host's own table; flanneld acquires one of its own"
    node = StateDir(Path(settings.state_dir), Path(settings.subnet_file)).node_id()
    client = make_client(settings)
    try:
        return await admin.hand_over(client, settings.etcd.prefix, node, SETTINGS, dry_run=dry_run)
    except EtcdError as error:
        raise RegistryError(f"etcd: {error}") from None
    finally:
        await client.close()
