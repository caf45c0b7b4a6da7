"""What published ports are made of: their table of rules, an element for each, and answers to 127.0.0.1.

Without a published port there is none of it: the table has every packet of the host looked up in conntrack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from overlayd.core.attach.model import Attachment
from overlayd.core.attach.ports import elements
from overlayd.core.kernel.firewall import ports_table
from overlayd.core.kernel.kinds import KernelObject, LocalnetRouting
from overlayd.reconcile.attachments import AttachmentProvider, device_towards
from overlayd.reconcile.firewall import overlay_ranges


class Ports(AttachmentProvider):
    """Of every published port."""

    def of(self, attachments: Iterable[Attachment]) -> Iterator[KernelObject]:
        published = [one for one in attachments if one.ports]
        if published:
            yield ports_table(tuple(overlay_ranges(self._node)))
        for one in published:
            if 4 in self._node.families:
                yield LocalnetRouting(device_towards(one))
            yield from (thing for thing in elements(one) if thing.target.version in self._node.families)
