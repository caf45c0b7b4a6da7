"""The section `udp:` of the configuration: settings of the data path in user space."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from overlayd.core.leases.lease import Wire
from overlayd.core.offload import OFFLOADS
from overlayd.core.settings import values
from overlayd.core.settings.section import Port, Section


class UdpSettings(Section):
    """udp mode."""

    port: Port = Field(8285, description="UDP port, here and on every peer")
    engine: Annotated[str, values.choice("auto", "native", "python")] = Field(
        "auto", description="packet engine: native (fast), python (readable), or auto: the fastest one installed"
    )
    busy_poll_us: Annotated[int, values.integer(0, 1000)] = Field(
        0, description="native engine: poll this many microseconds before sleeping; lower latency, more CPU"
    )
    wire: Annotated[Wire, values.choice(*get_args(Wire))] = Field(
        "flannel",
        description="wire formats that this host's lease announces in etcd: flannel's only, or overlayd's extensions"
        " as well",
    )
    without_offloads: Annotated[tuple[str, ...] | None, values.words(*OFFLOADS)] = Field(
        None, description=f"native engine: offloads to disable, separated by commas ({', '.join(OFFLOADS)})"
    )
