"""`overlayd`, begun in the order that matters after a crash: packets first, then the rest of the program."""

from __future__ import annotations

import os
import signal

from overlayd.datapath.handover import stand_in
from overlayd.system.service_manager import ServiceManager


def main() -> int:
    """Run the command; the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload; there is nothing yet that could be out of date
    manager = ServiceManager.from_environment(os.environ)
    engine = stand_in(manager.given)
    try:
        if engine is not None:
            manager.lend(engine.halt)
        from overlayd.cli.overlayd import main as command

        return command(manager=manager)
    finally:
        if engine is not None:
            engine.halt()
