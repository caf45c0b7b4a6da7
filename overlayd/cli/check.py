"""`overlayd --check`: what a start would do here, or why it would be refused. Nothing is changed.

1. preview     the node, with the lease that it would get
2. try         what the host may refuse (`daemon/trial.py`); what a daemon that runs here already has is no reason
3. plan        the operations of a start, where nothing refuses it
4. problems    what refuses the start, and what it would report, a line for each
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from overlayd.cli.arguments import report
from overlayd.cli.planning import Preview, preview, print_operations, takeover
from overlayd.core.settings.model import Settings
from overlayd.daemon import forwarding, trial
from overlayd.system.errors import HostError
from overlayd.system.instance_lock import InstanceLock
from overlayd.system.processes import DaemonProcess, find, is_here, of


async def check(given: Settings) -> int:
    """Print all of it; the exit status. Raises HostError or RegistryError where there is no node."""
    daemon, flanneld = _running(given), find("flanneld")
    pid = daemon.pid if daemon is not None else None
    async with AsyncExitStack() as closing:
        found = await preview(given, closing)
        refused = await _refusals(found, pid) if flanneld is None else []
        if daemon is not None:
            print(f"daemon    {daemon.whereabouts}: a reload applies what follows")
        _print_node(found)
        if refused:
            print("would do nothing: a start is refused")
        else:
            await _print_plan(found)
        problems = [*map(str, refused), *_problems(found, pid)]
    if flanneld is not None:
        problems.append(f"{flanneld} is running on this host: overlayctl adopt --from flannel stops it")
    for text in problems:
        report("overlayd", text)
    return 1 if problems else 0


def _running(given: Settings) -> DaemonProcess | None:
    """The daemon that has the control socket, if it is one of this network namespace."""
    holder = InstanceLock(Path(given.control_socket)).holder()
    return of("overlayd", holder) if holder is not None and is_here(holder) else None


async def _refusals(found: Preview, daemon: int | None) -> list[HostError]:
    first = trial.busy(found.settings, daemon)
    return [*first, *await trial.refusals(found.settings, found.backend, found.netlink, daemon)]


def _problems(found: Preview, daemon: int | None) -> Iterator[str]:
    """What a start would report and go on with."""
    node = found.node
    yield from (f"unreachable peer: {text}" for lease in found.reconciler.peers if (text := node.problem(lease)))
    yield from forwarding.faults(found.settings, node)
    yield from (f"peers are not probed: {refused}" for refused in trial.unprobed(found.settings, node, daemon))


def _print_node(found: Preview) -> None:
    node = found.node
    print(f"mode      {node.mode}")
    print(f"underlay  {node.underlay.name}, MTU {node.underlay.mtu}")
    print(f"lease     {node.lease}")
    print(f"overlay   {', '.join(found.backend.devices) or 'no device'}, MTU {node.overlay_mtu}")
    for lease in found.reconciler.peers:
        print(f"peer      {lease}{f'  {lease.name}' if lease.name else ''}")


async def _print_plan(found: Preview) -> None:
    plan = await found.reconciler.plan()
    if adopted := takeover(plan):
        print("would take over from flannel (overlayctl adopt --from flannel)")
        print(*(f"  {line}" for line in adopted), sep="\n")
    switches = forwarding.planned(found.settings, found.node)
    print_operations([*plan.operations, *switches], "would do", "nothing to do")
