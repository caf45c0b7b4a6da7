"""`overlayctl adopt` and `overlayctl leave`: a host that was flannel's becomes overlayd's, and back.

adopt   1. find      flanneld's process, its lease in etcd, its devices, routes and rules
        2. stop      flanneld, if systemd runs it
        3. apply     overlayd's kernel state: devices are renamed, routes replaced in place
        4. remove    flannel's rules, which overlayd's have replaced by now
leave   1. stop      overlayd, if systemd runs it
        2. etcd      the lease stays, overlayd's record goes
        3. apply     flannel's kernel state

In vxlan and host-gw mode the kernel keeps forwarding meanwhile. The operator starts the other daemon.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from overlayd.backend.modes import SETTINGS
from overlayd.cli.arguments import Parser, report
from overlayd.cli.logs import set_up
from overlayd.cli.planning import preview, print_operations
from overlayd.cli.settings import add_flags, sources
from overlayd.core.kernel.flannel_rules import names
from overlayd.core.settings.model import Settings
from overlayd.reconcile.reconciler import Reconciler
from overlayd.registry.base import RegistryError
from overlayd.registry.etcd import admin
from overlayd.registry.etcd.client import make_client
from overlayd.registry.etcd.messages import EtcdError
from overlayd.system import nft
from overlayd.system.config_file import load
from overlayd.system.instance_lock import InstanceLock
from overlayd.system.kernel import Kernel
from overlayd.system.netlink import Netlink
from overlayd.system.processes import find, of
from overlayd.system.state_dir import StateDir

_EXIT_STATUS = "exit status: 0 success; 1 the host or etcd refused something; 2 usage error or wrong configuration"


def configure(parser: Parser) -> None:
    """The arguments of `adopt`."""
    parser.description = (
        "Take this host over from flannel: stop flanneld, keep its lease and VTEP MAC, turn its devices and routes into"
        " overlayd's in place, and remove its rules. Then start overlayd."
    )
    parser.epilog = _EXIT_STATUS
    parser.add_argument("--from", dest="origin", choices=["flannel"], required=True, help="whose host it was")
    parser.add_argument("--keep-rules", action="store_true", help="leave flannel's iptables chains and nftables tables")
    _add_dry_run(parser)
    add_flags(parser)
    parser.set_defaults(run=_adopt)


def configure_leave(parser: Parser) -> None:
    """The arguments of `leave`."""
    parser.description = (
        "Give this host back to flannel: stop overlayd, leave its lease to flanneld, turn its devices and routes into"
        " flannel's in place, and remove everything else that overlayd made. Then start flanneld."
    )
    parser.epilog = _EXIT_STATUS
    _add_dry_run(parser)
    add_flags(parser)
    parser.set_defaults(run=_leave)


def _add_dry_run(parser: Parser) -> None:
    parser.add_argument("--dry-run", "--check", action="store_true", help="print what would be done, change nothing")


# --- adopt ------------------------------------------------------------------------------------------------------------


def _settings(given: argparse.Namespace) -> Settings:
    """The configuration; what is done is printed by the command itself, so only errors are logged."""
    settings = load(sources(given), SETTINGS).settings
    set_up(settings.changed(log_level="error"))
    return settings


def _adopt(given: argparse.Namespace) -> int:
    return asyncio.run(_adopt_host(_settings(given), keep_rules=given.keep_rules, dry_run=given.dry_run))


async def _adopt_host(settings: Settings, *, keep_rules: bool, dry_run: bool) -> int:
    lock, flanneld = InstanceLock(Path(settings.control_socket)), find("flanneld")
    overlayd = lock.holder()
    async with AsyncExitStack() as closing:
        if not dry_run and overlayd is None:
            closing.enter_context(lock)
        node, _, reconciler = await preview(settings, closing)
        plan = await reconciler.plan()
        rules = () if keep_rules else plan.flannel_rules
        print(f"mode      {node.mode}")
        print(f"lease     {node.lease}")
        print(f"flanneld  {flanneld.whereabouts if flanneld else 'is not running'}")
        print_operations([] if overlayd else plan.operations, "kernel", "kernel    nothing to do")
        for name in names(plan.flannel_rules):
            print(f"rules     {name}: {'kept' if keep_rules else 'removed'}")
        if dry_run:
            print("nothing was changed")
            return 0
        if flanneld is not None:
            flanneld.stop()
        failures = [str(one) for one in await reconciler.compare()] if overlayd is None else []
        if not failures:
            await nft.remove_flannels(rules)
    for text in failures:
        report("overlayctl", text)
    disable = f"systemctl disable {flanneld.unit} && " if flanneld is not None and flanneld.unit else ""
    if not failures and overlayd is None:
        print(f"next: {disable}systemctl enable --now overlayd@{node.mode}")
    return 1 if failures else 0


# --- leave ------------------------------------------------------------------------------------------------------------


def _leave(given: argparse.Namespace) -> int:
    return asyncio.run(_leave_host(_settings(given), dry_run=given.dry_run))


async def _leave_host(settings: Settings, *, dry_run: bool) -> int:
    lock = InstanceLock(Path(settings.control_socket))
    holder = lock.holder()
    overlayd = of("overlayd", holder) if holder is not None else None
    print(f"overlayd  {overlayd.whereabouts if overlayd else 'is not running'}")
    report_on_lease = await _hand_over(settings, dry_run=True)  # nothing has been stopped if etcd is out of reach
    if overlayd is not None and not dry_run:
        overlayd.stop()
    async with Netlink() as netlink, AsyncExitStack() as closing:
        if not dry_run:
            closing.enter_context(lock)
            report_on_lease = await _hand_over(settings, dry_run=False)
        print(f"lease     {report_on_lease}")
        reconciler = Reconciler(Kernel(netlink))
        operations = await reconciler.give_back(dry_run=dry_run)
    print_operations(operations, "kernel", "kernel    nothing to do")
    for failure in reconciler.failures:
        report("overlayctl", str(failure))
    if dry_run:
        print("nothing was changed")
    elif not reconciler.failures:
        print("next: systemctl disable 'overlayd@*' && systemctl enable --now flanneld")
    return 1 if reconciler.failures else 0


async def _hand_over(settings: Settings, *, dry_run: bool) -> str:
    if settings.registry == "static":
        return "is in this host's own table; flanneld acquires one of its own"
    node = StateDir(Path(settings.state_dir), Path(settings.subnet_file), read_only=True).node_id()
    client = make_client(settings)
    try:
        return await admin.hand_over(client, settings.etcd.prefix, node, SETTINGS, dry_run=dry_run)
    except EtcdError as error:
        raise RegistryError(f"etcd: {error}") from None
    finally:
        await client.close()
