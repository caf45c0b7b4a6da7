"""What tests need of the machine. Without it they are skipped, and the skip says how to enable them; with
OVERLAYD_REQUIRE_PRIVILEGED=1, as CI sets it, the skip is a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support")

Demand = Callable[[str | None], None]


@pytest.fixture(scope="session")
def demand() -> Demand:
    """Skip, or fail, for the reason that is given; None: nothing is missing."""

    def check(reason: str | None) -> None:
        if reason is None:
            return
        if os.environ.get("OVERLAYD_REQUIRE_PRIVILEGED") == "1":
            pytest.fail(f"{reason} (OVERLAYD_REQUIRE_PRIVILEGED=1 forbids to skip)", pytrace=False)
        pytest.skip(reason)

    return check


@pytest.fixture(scope="session")
def privileged(demand: Demand) -> None:
    """Network namespaces and TUN devices can be made."""
    if os.geteuid() != 0:
        demand("needs root: sudo make test")
    if not Path("/dev/net/tun").exists():
        demand("needs /dev/net/tun: sudo modprobe tun")
