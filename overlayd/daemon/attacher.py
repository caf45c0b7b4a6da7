"""Attaches containers, refreshes and detaches them.

1. plan       the request against what is there: interface, address, bridge; nothing has changed if it is refused
2. remember   the attachment, not ready yet, on the disk: whatever happens from here on leaks nothing
3. host       the veth with both its ends, its port or its routes, through the reconciler: desired state from now on
4. container  lo, addresses and routes, through the socket that the client passed
5. ready      on the disk as well

A step that is refused undoes those before it. A detachment goes the other way: the device first, the address last. A
host end that is gone took its container's interface along, or went with it: its attachment is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from overlayd.core.address import Address, Network
from overlayd.core.attach.conflict import conflict
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.ipam import choose, container_mac
from overlayd.core.attach.model import Attachment, AttachmentKey
from overlayd.core.attach.request import AttachRequest, DetachRequest, RefreshRequest
from overlayd.core.attach.values import cpu_mask
from overlayd.core.kernel.kinds import KernelState, Key, VethPeer, state_of
from overlayd.daemon.publishing import assign_ports
from overlayd.log import log
from overlayd.observe.overlay import Overlay
from overlayd.reconcile.attachments import Attachments
from overlayd.reconcile.ports import Ports
from overlayd.system.attachment_file import AttachmentFile
from overlayd.system.errors import HostError
from overlayd.system.kernel import Failure
from overlayd.system.netlink import ContainerNamespace, Netlink


class Attacher:
    """Changes the overlay's attachments; `overlay.changing` is held while it plans and while it works on the host."""

    def __init__(self, overlay: Overlay, netlink: Netlink, file: AttachmentFile, is_ready: Callable[[], bool]) -> None:
        self._overlay, self._netlink, self._file, self._is_ready = overlay, netlink, file, is_ready
        self._table = overlay.attachments
        self._leaving: set[AttachmentKey] = set()
        """What the next detachment takes along: several at once cost little more than one."""
        self._tidying: set[asyncio.Task[None]] = set()
        overlay.reconciler.on_lost = self._on_lost

    # --- attach -------------------------------------------------------------------------------------------------------

    async def attach(self, request: AttachRequest, namespace: ContainerNamespace) -> Attachment:
        """Raises AttachError, HostError."""
        self._check_ready()
        async with self._overlay.changing:
            attachment = await self._plan(request, namespace)
            self._table.put(attachment)
            rps = cpu_mask(attachment.rps) if attachment.rps else ""
            peer = VethPeer(attachment.interface, namespace.netns, attachment.mtu, attachment.mac, rps)
            try:
                self._save()
                failures = await self._add(attachment, peer)
            except HostError:
                await self._remove([attachment.key])
                raise
            if failures:  # a device of that name is somebody else's, perhaps: it stays
                await self._remove([attachment.key], spared={one.operation.object.key for one in failures})
                raise AttachError(failures[0].reason, "refused")
        try:
            await asyncio.to_thread(self._set_up, attachment, namespace)
            return self._finish(attachment)
        except (AttachError, HostError):
            if (now := self._table.get(attachment.key)) is not None and now.netns_id == attachment.netns_id:
                await self._detach([attachment.key])
            raise

    async def _plan(self, request: AttachRequest, namespace: ContainerNamespace) -> Attachment:
        if namespace.is_hosts:
            raise AttachError(f"{request.netns} is this host's own network namespace, not a container's")
        key = (request.container, request.interface)
        if (known := self._table.get(key)) is not None:
            raise AttachError(
                f"container {request.container} is attached by {request.interface} already"
                f" ({_listed(one.ip for one in known.addresses)}); detach it first, or name another --interface",
                "exists",
            )
        if namespace.has(request.interface):
            raise AttachError(
                f"container {request.container} has an interface {request.interface} already; name another --interface",
                "exists",
            )
        node, table = self._overlay.node, self._table
        if not len(table) and (text := conflict(await self._netlink.interfaces(), node.lease.subnets)) is not None:
            raise AttachError(text, "conflict")
        addresses = choose(node.lease.subnets, table.taken, request.addresses, table.last)
        return Attachment(
            container=request.container,
            interface=request.interface,
            mode=request.mode,
            network=request.network,
            addresses=addresses,
            mac=request.mac or container_mac([one.ip for one in addresses]),
            mtu=node.overlay_mtu,
            netns=request.netns,
            netns_id=namespace.identity,
            ports=await assign_ports(self._netlink, table.ports, key, request.ports, addresses),
            sysctls=request.sysctls,
            rps=request.rps,
        )

    async def _add(self, attachment: Attachment, peer: VethPeer) -> Sequence[Failure]:
        """What is there for others stays; what is there for a container that has just ended (a port) changes hands."""
        wanted = self._wanted([attachment], {attachment.device: peer})
        reconciler = self._overlay.reconciler
        former = {key: thing for key in wanted if (thing := reconciler.desired(key)) is not None}
        return await reconciler.apply_change(former, wanted)

    def _set_up(self, attachment: Attachment, namespace: ContainerNamespace) -> None:
        lone = attachment.mode == "routed"
        namespace.set_up(attachment.interface, attachment.addresses, self._networks(), lone=lone)

    def _finish(self, attachment: Attachment) -> Attachment:
        if self._table.get(attachment.key) is not attachment:
            raise AttachError(f"container {attachment} was detached, or ended, while it was attached", "refused")
        ready = replace(attachment, ready=True)
        self._table.put(ready)
        self._save()
        log.info("container attached", **_logged(ready))
        return ready

    # --- detach -------------------------------------------------------------------------------------------------------

    async def detach(self, request: DetachRequest) -> list[Attachment]:
        """Raises AttachError where there is nothing to detach; HostError."""
        self._check_ready()
        gone = [one for one in self._table.of(request.container) if request.interface in (None, one.interface)]
        if not gone:
            by = f" by {request.interface}" if request.interface is not None else ""
            raise AttachError(
                f"container {request.container} is not attached{by}; see overlayctl attachment list", "unknown"
            )
        await self._detach([one.key for one in gone])
        for one in gone:
            log.info("container detached", **_logged(one))
        return gone

    async def _detach(self, keys: Iterable[AttachmentKey]) -> None:
        self._leaving.update(keys)
        async with self._overlay.changing:
            leaving, self._leaving = self._leaving, set()
            if leaving:
                await self._remove(leaving)

    async def _remove(self, keys: Collection[AttachmentKey], spared: Collection[Key] = ()) -> None:
        """Host ends first: what has an address must not lose it to another one."""
        gone = [one for key in keys if (one := self._table.get(key)) is not None]
        try:
            await self._apply(self._unwanted(gone), {}, spared)
        finally:  # what the kernel refused to remove is not desired any more: a comparison tries again
            self._table.remove(keys)
            self._save()

    def _unwanted(self, gone: Collection[Attachment]) -> KernelState:
        """What nothing but these wants. They are in the table: no other has their addresses and ports."""
        keys = {one.key for one in gone}
        left = [one for one in self._table if one.key not in keys]
        return self._wanted_by_none(gone, {(one.mode, one.network, bool(one.ports)): one for one in left}.values())

    def _wanted_by_none(self, gone: Collection[Attachment], left: Collection[Attachment]) -> KernelState:
        kept = self._wanted(left)
        return {key: thing for key, thing in self._wanted(gone).items() if key not in kept}

    def _on_lost(self, keys: Collection[Key]) -> None:
        """Host ends are gone. Called while the kernel's lock is held."""
        names = {key[1] for key in keys}
        gone = self._table.remove([one.key for one in self._table if one.device in names])
        for one in gone:
            log.info("container is gone, and its attachment with it", **_logged(one))
        if gone:
            task = asyncio.get_running_loop().create_task(self._tidy(gone))
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)

    async def _tidy(self, gone: Collection[Attachment]) -> None:
        """Remove what did not go by itself: the bridge, or what it has for these."""
        async with self._overlay.changing:
            try:
                self._save()
                left = list(self._table)  # some may be new, and have addresses and ports of those that have gone
                unwanted = self._wanted_by_none([one for one in gone if one.key not in self._table], left)
                await self._apply(unwanted, {}, {key for key, one in unwanted.items() if one.transient})
            except (AttachError, HostError) as error:
                log.error("what containers left is not removed", error=str(error))

    # --- refresh ------------------------------------------------------------------------------------------------------

    async def refresh(self, request: RefreshRequest, namespace: ContainerNamespace) -> Attachment:
        """Raises AttachError, HostError."""
        self._check_ready()
        async with self._overlay.changing:
            old = self._table.get((request.container, request.interface))
            if old is None or not old.ready:
                raise AttachError(f"container {request.container} is not attached by {request.interface}", "unknown")
            if namespace.identity != old.netns_id:
                raise AttachError(f"{old.netns} is not the network namespace of container {old} any more", "refused")
            new = self._renewed(old)
            if new == old:
                return old
            self._table.put(new)
            self._save()
            await self._apply(self._wanted([old]), self._wanted([new]))
        lone = new.mode == "routed"
        try:
            await asyncio.to_thread(
                namespace.refresh, new.interface, new.mtu, old.addresses, new.addresses, self._networks(), lone=lone
            )
        except AttachError:
            if self._table.get(new.key) is new:  # it still needs to be refreshed
                self._table.put(old)
                self._save()
            raise
        log.info("container refreshed", **_logged(new))
        return new

    def _renewed(self, old: Attachment) -> Attachment:
        subnets = self._overlay.node.lease.subnets
        own = [one.ip for one in old.addresses]
        taken = {address: holder for address, holder in self._table.taken.items() if address not in own}
        kept = [one for one in own if any(one in subnet for subnet in subnets)]
        addresses = choose(subnets, taken, kept, self._table.last)
        return replace(old, addresses=addresses, mtu=self._overlay.node.overlay_mtu)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _wanted(self, attachments: Collection[Attachment], peers: dict[str, VethPeer] | None = None) -> KernelState:
        """What these attachments want, what they share included. `peers`: the ends to make."""
        node, table = self._overlay.node, self._table
        return state_of([*Attachments(node, table).of(attachments, peers), *Ports(node, table).of(attachments)])

    def _networks(self) -> list[Network]:
        return [one.network for one in self._overlay.node.ranges]

    def _check_ready(self) -> None:
        if not self._is_ready():
            raise AttachError("overlayd is starting or stopping; try again", "later")

    def _save(self) -> None:
        self._file.save(self._table)

    async def _apply(self, old: KernelState, new: KernelState, spared: Collection[Key] = ()) -> None:
        failures = await self._overlay.reconciler.apply_change(old, new, spared)
        if failures:
            raise AttachError(failures[0].reason, "refused")


def _listed(things: Iterable[Address | Network]) -> str:
    return " and ".join(map(str, things))


def _logged(attachment: Attachment) -> dict[str, str]:
    addresses = _listed(one.ip for one in attachment.addresses)
    return {"container": attachment.container, "interface": attachment.interface, "addresses": addresses}
