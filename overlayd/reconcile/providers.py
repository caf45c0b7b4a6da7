"""The providers of a node's desired state."""

from __future__ import annotations

from overlayd.backend.base import Backend
from overlayd.core.attach.table import AttachmentTable
from overlayd.core.kernel.provider import Provider
from overlayd.core.leases.table import LeaseTable
from overlayd.core.settings.model import Settings
from overlayd.reconcile.attachments import Attachments
from overlayd.reconcile.firewall import Firewall
from overlayd.reconcile.ports import Ports
from overlayd.reconcile.unreachable import Unreachable


def providers(
    backend: Backend, settings: Settings, table: LeaseTable, attachments: AttachmentTable
) -> tuple[Provider, ...]:
    """Everything that is to be in the kernel for this backend's node."""
    node = backend.node
    ports = {*node.spec.ports(node), settings.probe.port} - {0}
    return (
        backend,
        Unreachable(node),
        Attachments(node, attachments),
        Ports(node, attachments),
        Firewall(
            node,
            backend.devices,
            backend.tunnels,
            tuple(sorted(ports)),
            settings.ip_masq,
            settings.forward_rules,
            table.is_public,
        ),
    )
