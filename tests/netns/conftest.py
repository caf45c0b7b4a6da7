"""Tests in here make network namespaces. Without the privilege they are skipped, and the skip says how to enable them;
with OVERLAYD_REQUIRE_PRIVILEGED=1, as CI sets it, the skip is a failure."""

import os
from pathlib import Path

import pytest
from etcd_server import etcd, etcd_process

__all__ = ["etcd", "etcd_process"]


def missing() -> str | None:
    """What this process lacks to run the tests in here, and the remedy; None when nothing is."""
    if os.geteuid() != 0:
        return "needs root: sudo make test"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun: sudo modprobe tun"
    return None


@pytest.fixture(scope="session", autouse=True)
def _privileged() -> None:
    reason = missing()
    if reason is None:
        return
    if os.environ.get("OVERLAYD_REQUIRE_PRIVILEGED") == "1":
        pytest.fail(f"{reason} (OVERLAYD_REQUIRE_PRIVILEGED=1 forbids to skip)", pytrace=False)
    pytest.skip(reason)
