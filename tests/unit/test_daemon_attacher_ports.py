"""A port changes hands: its container has ended, and another one has it before the first is tidied up."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import Attachment
from overlayd.core.attach.request import DetachRequest, parse_attach
from overlayd.core.attach.table import AttachmentTable
from overlayd.core.kernel.kinds import KernelState, PortElement
from overlayd.core.leases.lease import Lease
from overlayd.daemon.attacher import Attacher
from overlayd.reconcile.reconciler import Reconciler
from support.fake_kernel import FakeKernel

LEASE = Lease(subnet=ip_network("10.1.1.0/24"))
NODE: Any = SimpleNamespace(
    ranges=[SimpleNamespace(network=ip_network("10.1.0.0/16"))],
    lease=LEASE,
    families=(4,),
    overlay_mtu=1450,
    underlay=SimpleNamespace(name="eth0"),
)
PORT = {"protocol": "tcp", "host_address": None, "host_port": 8080, "container_port": 80}


class Rig:
    """An attacher on a kernel in memory."""

    def __init__(self) -> None:
        self.kernel: Any = FakeKernel()
        self.table = AttachmentTable()
        reconciler = Reconciler(self.kernel)
        reconciler.use(NODE, [])
        overlay: Any = SimpleNamespace(
            attachments=self.table, reconciler=reconciler, node=NODE, changing=asyncio.Lock()
        )
        netlink: Any = SimpleNamespace(interfaces=self._nothing, listening=self._nothing)
        file: Any = SimpleNamespace(save=lambda table: None)
        self.attacher = Attacher(overlay, netlink, file, lambda: True)

    @staticmethod
    async def _nothing(*_: object) -> list[Any]:
        return []

    async def attach(self, name: str, **given: Any) -> Attachment:
        request = parse_attach({"container": name, "netns": f"/run/netns/{name}", "ports": [PORT], **given})
        namespace: Any = SimpleNamespace(
            netns=0, identity=1, is_hosts=False, has=lambda interface: False, set_up=lambda *_, **__: None
        )
        return await self.attacher.attach(request, namespace)

    async def lose(self, attachment: Attachment) -> None:
        """Its host end is gone, as the reconciler reports it."""
        key = ("link", attachment.device)
        lost = {one for one, thing in self.kernel.state.items() if key in (one, thing.parent)}
        for one in lost:
            del self.kernel.state[one]
        reconciler: Any = self.attacher._overlay.reconciler
        for one in lost:
            reconciler._applier.desired.pop(one)
        self.attacher._on_lost([key])

    def leads_to(self) -> list[str]:
        return [str(one.target) for one in self.kernel.state.values() if isinstance(one, PortElement)]


@pytest.mark.parametrize("mode", ["bridge", "routed"])
async def test_a_port_of_a_container_that_has_just_ended(mode: str) -> None:
    rig = Rig()
    first = await rig.attach("c1", mode=mode)
    assert rig.leads_to() == ["10.1.1.2"]
    await rig.lose(first)
    second = await rig.attach("c2", mode=mode)  # the first is tidied up meanwhile, or after
    await asyncio.gather(*rig.attacher._tidying)
    assert rig.leads_to() == ["10.1.1.3"]
    assert [one.container for one in rig.table] == ["c2"]
    await rig.lose(second)
    await asyncio.gather(*rig.attacher._tidying)
    assert rig.kernel.state == {}


async def test_an_address_of_a_container_that_has_just_ended() -> None:
    rig = Rig()
    first = await rig.attach("c1", addresses=["10.1.1.9"])
    await rig.lose(first)
    second = await rig.attach("c2", addresses=["10.1.1.9"])
    await asyncio.gather(*rig.attacher._tidying)
    assert [key for key in rig.kernel.state if key[0] == "neighbour"] == [
        ("neighbour", "ovlbr0", second.addresses[0].ip)
    ]


async def test_a_taken_port_changes_nothing() -> None:
    rig = Rig()
    await rig.attach("c1")
    before: KernelState = dict(rig.kernel.state)
    with pytest.raises(AttachError, match="port 8080/tcp is taken by container c1 eth0"):
        await rig.attach("c2")
    assert rig.kernel.state == before
    await rig.attacher.detach(DetachRequest(container="c1"))
    assert rig.kernel.state == {}
    await rig.attach("c2")
    assert rig.leads_to() == ["10.1.1.3"]
