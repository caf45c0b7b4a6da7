"""What a daemon with a static table has in memory: no library that it has no use for."""

from __future__ import annotations

import subprocess
import sys

ABSENT = {
    "aiohttp": "an HTTP client, for etcd",
    "h11": "for clients of the control API: until the first one comes",
    "cryptography": "for wireguard mode",
    "http.client": "overlayctl's",
    "overlayd.bench": "a tool",
    "overlayd.lab": "a tool",
    "overlayd.registry.etcd": "another registry",
    "pydantic": "for results of benchmarks",
    "pyroute2": "for tests",
    "rich": "for tables and progress on a terminal",
    "structlog": "imports rich where there is one",
}
PROGRAM = """
import asyncio, sys
import overlayd.cli.start
from overlayd.api.server import ControlServer
from overlayd.backend.modes import SETTINGS
from overlayd.cli.logs import set_up
from overlayd.cli.overlayd import parser
from overlayd.cli.settings import sources
from overlayd.daemon.discovery import make_registry
from overlayd.system.config_file import load

loaded = load(sources(parser().parse_args(["--config", "config/overlayd.yaml"])), SETTINGS)
set_up(loaded.settings)
assert make_registry(loaded.settings).name == "static"
print(*sys.modules)
"""


def test_an_idle_daemon_has_not_imported_what_it_does_not_use() -> None:
    modules = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout.split()
    assert "overlayd.daemon.daemon" in modules
    assert not ABSENT.keys() & set(modules)
