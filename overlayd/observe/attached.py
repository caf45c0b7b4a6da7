"""The attached containers as `overlayctl attachment` shows them, and which of them have to be refreshed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from overlayd.core.attach.model import Attachment
from overlayd.observe.overlay import Overlay


def describe_attachments(overlay: Overlay) -> list[dict[str, Any]]:
    """Every attachment, the name of its host end, and what is wrong with it."""
    return [{**one.json(), "device": one.device, "problem": _problem(overlay, one)} for one in overlay.attachments]


def attachment_problems(overlay: Overlay) -> Iterator[str]:
    """What is wrong with attachments, in words."""
    for one in overlay.attachments:
        if (text := _problem(overlay, one)) is not None:
            yield f"container {one}: {text}"


def _problem(overlay: Overlay, attachment: Attachment) -> str | None:
    """Whether it has an address or an MTU that this host's lease no longer gives."""
    subnets, mtu = overlay.node.lease.subnets, overlay.node.overlay_mtu
    remedy = "run overlayctl attachment refresh"
    for own in attachment.addresses:
        if not any(own.ip in subnet for subnet in subnets):
            return f"its address {own.ip} is not in this host's subnet {' and '.join(map(str, subnets))}; {remedy}"
    if [one.version for one in attachment.addresses] != [subnet.version for subnet in subnets]:
        return f"it has no address of this host's subnet {subnets[-1]}; {remedy}"
    if attachment.mtu != mtu:
        return f"its MTU is {attachment.mtu}, and the overlay's is {mtu}; {remedy}"
    return None
