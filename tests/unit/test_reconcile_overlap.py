"""A comparison goes on while something is changed: what was changed meanwhile is left as it was changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from overlayd.core.kernel.firewall import peer_element
from overlayd.core.kernel.kinds import KernelObject, Ruleset, state_of
from overlayd.reconcile.reconciler import Reconciler
from support.fake_kernel import FakeKernel

TABLE = Ruleset("inet", "overlayd", None, ())
ELEMENT = peer_element(ip_address("192.0.2.2"))


class Desire:
    """A provider of just these objects."""

    def __init__(self, *objects: KernelObject) -> None:
        self.wanted = objects

    def objects(self, now: object) -> Iterable[KernelObject]:
        return self.wanted

    def on_leases(self, events: object) -> tuple[list[KernelObject], list[KernelObject]]:
        return [], []


async def test_what_is_removed_with_its_parent_during_a_comparison_stays_removed() -> None:
    """The rules are gone already when they are read, and the provider still wants them when it is asked."""
    kernel: Any = FakeKernel()
    reconciler = Reconciler(kernel)
    node: Any = SimpleNamespace(underlay=SimpleNamespace(name="eth0"), lease=SimpleNamespace(key="own"))
    desire: Any = Desire(TABLE, ELEMENT)
    reconciler.use(node, [desire])
    await reconciler.compare()
    assert kernel.state == state_of([TABLE, ELEMENT])
    kernel.may_read.clear()
    checking = asyncio.create_task(reconciler.check())
    await asyncio.sleep(0)
    await reconciler.apply_change(state_of([TABLE, ELEMENT]), {})
    kernel.may_read.set()
    findings = await checking
    assert findings.desired == state_of([TABLE, ELEMENT])
    await reconciler.repair(findings)
    assert kernel.state == {}
    assert reconciler.desired(ELEMENT.key) is None
