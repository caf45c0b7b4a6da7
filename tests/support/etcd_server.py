"""Fixtures with a real etcd on loopback; conftest.py makes them known. `overlayd.lab.etcd` has what they give."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from overlayd.lab.etcd import Etcd, loopback


@pytest.fixture(scope="session")
def etcd_process() -> Iterator[Etcd]:
    """One member, for the whole run. Tests take `etcd`."""
    with loopback() as etcd:
        yield etcd


@pytest.fixture
def etcd(etcd_process: Etcd) -> Etcd:
    """An etcd of one member that runs and holds nothing: no key, no lease. A test may do to it what it likes, but for
    auth, which needs a `loopback()` of its own."""
    member = etcd_process.members[0]
    if member.pid is None:
        member.start()
    member.resume()
    etcd_process.ctl("del", "--prefix", "--", "/")
    for lease in etcd_process.leases():
        etcd_process.revoke(lease)
    return etcd_process
