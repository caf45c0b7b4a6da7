"""`overlayd`, started in the order that matters after a crash: packets first, then the rest of the program."""

from __future__ import annotations

import gc
import os
import signal

from overlayd.datapath.handover import take_over
from overlayd.system.service_manager import ServiceManager


def main() -> int:
    """Run the command; the exit status."""
    gc.disable()  # a start makes objects by the hundred thousand, and hardly any garbage; once it is up it collects
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload: nothing has been read yet that could be out of date
    manager = ServiceManager.from_environment(os.environ)
    engine = take_over(manager.given)
    try:
        if engine is not None:
            manager.share(engine.halt)
        from overlayd.cli.overlayd import main as command

        return command(manager=manager)
    finally:
        if engine is not None:
            engine.halt()
