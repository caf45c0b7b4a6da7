"""The section `udp:` of the configuration: settings of the data path in user space."""

from __future__ import annotations

from typing import get_args

from overlayd.core.leases.lease import Wire
from overlayd.core.offload import OFFLOADS
from overlayd.core.settings import values
from overlayd.core.settings.section import Section, setting


class UdpSettings(Section):
    """udp mode."""

    port: int = setting(8285, values.port, "UDP port, here and on every peer")
    engine: str = setting(
        "auto",
        values.choice("auto", "native", "python"),
        "packet engine: native (fast), python (readable), or auto: the fastest one installed",
    )
    busy_poll_us: int = setting(
        0,
        values.integer(0, 1000),
        "native engine: poll this many microseconds before sleeping; lower latency, more CPU",
    )
    wire: Wire = setting(
        "flannel",
        values.choice(*get_args(Wire)),
        "wire formats that this host's lease announces in etcd: flannel's only, or overlayd's extensions as well",
    )
    without_offloads: tuple[str, ...] | None = setting(
        None,
        values.words(*OFFLOADS),
        f"native engine: offloads to disable, separated by commas ({', '.join(OFFLOADS)})",
    )
