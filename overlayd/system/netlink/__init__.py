"""The kernel's devices, addresses, neighbours, FDB and routes. Only this package speaks pyroute2.

How overlayd knows what is its own:
    a device      by its group (IFLA_GROUP), which `ip link show group` lists
    a route       by its protocol, which `ip route show proto` lists
    the rest      by the device it is on

    connection    what the floors above use: asynchronous, with a thread of its own
    reader        dumps, into the objects of core.state
    links         devices and addresses, one by one
    batches       routes, neighbours and FDB entries, packed many to a send
    monitor       what anybody changes
"""

from overlayd.system.netlink.connection import Netlink
from overlayd.system.netlink.monitor import Monitor

__all__ = ["Monitor", "Netlink"]
