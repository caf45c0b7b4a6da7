"""`overlayd`: the daemon, and what needs none: --check and --cleanup."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import time
from collections.abc import Sequence

import uvloop

from overlayd import __version__
from overlayd.backend.modes import SETTINGS
from overlayd.cli import flannel
from overlayd.cli.arguments import Parser, report, run_program
from overlayd.cli.check import check
from overlayd.cli.logs import set_up
from overlayd.cli.settings import add_flags
from overlayd.cli.settings import sources as settings_sources
from overlayd.core.settings.model import Settings
from overlayd.daemon.daemon import run
from overlayd.log import log
from overlayd.reconcile.reconciler import Reconciler
from overlayd.registry.base import RegistryError
from overlayd.system.config_file import Loaded, Sources, load, lone_path
from overlayd.system.errors import HostError
from overlayd.system.files import remove
from overlayd.system.instance_lock import InstanceLock
from overlayd.system.kernel import Kernel
from overlayd.system.netlink import Netlink
from overlayd.system.service_manager import ServiceManager

_BEFORE_RETRY = 5  # seconds
_EPILOG = """\
Every setting can be a flag, an environment variable (--vxlan-port is OVERLAYD_VXLAN_PORT) or a line of the YAML file,
in this order of precedence; config/overlayd.yaml shows them all. SIGHUP reloads, SIGTERM stops; kernel state stays
after a stop, so that containers keep their network during a restart.

exit status: 0 stopped by a signal, or --check found no problem; 1 the host refused something, or --check found a
problem; 2 usage error or wrong configuration
"""


def main(arguments: Sequence[str] | None = None, manager: ServiceManager | None = None) -> int:
    """Run the command; the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_program("overlayd", lambda: _main(given, manager or ServiceManager()))


def _main(arguments: Sequence[str], manager: ServiceManager) -> int:
    made = parser()
    words, remarks = flannel.arguments(arguments, os.environ, made)
    given = made.parse_args(words)
    flannel.apply(given)
    for remark in remarks:
        report("overlayd", remark)
    sources = settings_sources(given)
    try:
        if given.cleanup:  # what overlayd made can be removed whatever the configuration says
            set_up(Settings())
            return uvloop.run(_cleanup(sources))
        loaded = load(sources, SETTINGS)
        set_up(loaded.settings)
        return uvloop.run(check(loaded.settings)) if given.check else _serve(sources, loaded, manager)
    except RegistryError as error:
        report("overlayd", str(error))
        return 2


def _serve(sources: Sources, loaded: Loaded, manager: ServiceManager) -> int:
    faulthandler.enable()  # systemd ends a daemon that hangs with SIGABRT: the journal then says where it hung
    for line in loaded.overridden if manager else ():  # flags by hand are meant; a unit's are not the operator's
        log.warning("overridden", setting=line)
    try:
        uvloop.run(run(sources, loaded, manager))
    except HostError as error:
        log.error("fatal error", error=str(error))
        if manager:
            # It restarts us at once, which is right after a crash; what a host refuses, it keeps refusing for a while.
            manager.status(f"{error}; tried again in {_BEFORE_RETRY} s")
            time.sleep(_BEFORE_RETRY)
        return error.exit_status
    except BrokenPipeError as error:  # of a socket: nobody reads what a daemon prints, so it must not end quietly
        raise RuntimeError("a connection ended and nobody handled it") from error
    return 0


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="overlayd",
        description="An overlay network for containers: carries packets between hosts in user space (udp), through the"
        " kernel (vxlan), or without an overlay (host-gw).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"overlayd {__version__}")
    action = made.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="validate, print what would be done, change nothing")
    action.add_argument(
        "--cleanup", action="store_true", help="remove every device, route and rule that overlayd made, and subnet.env"
    )
    add_flags(made)
    flannel.add_flags(made)
    return made


async def _cleanup(sources: Sources) -> int:
    """Remove the objects, and with them subnet.env: it would hand out a subnet that nothing carries any more. On a host
    without objects the file is somebody else's, flannel's say."""
    with InstanceLock(lone_path(sources, "control_socket")):
        async with Netlink() as netlink:
            reconciler = Reconciler(Kernel(netlink))
            operations = await reconciler.cleanup()
        if operations:
            remove(lone_path(sources, "subnet_file"))
    for step in operations:
        print(f"  {step}")
    print(f"removed {len(operations) - len(reconciler.failures)} objects" if operations else "nothing to remove")
    for failure in reconciler.failures:
        report("overlayd", f"not removed: {failure}")
    return 1 if reconciler.failures else 0
