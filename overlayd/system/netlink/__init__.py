"""The kernel's devices, addresses, neighbours, FDB entries, routes and set elements, through netlink.

How overlayd knows what is its own:
    a device      by its group (IFLA_GROUP), which `ip link show group` lists
    a route       by its protocol, which `ip route show proto` lists
    the rest      by the device it is on

    connection        what the floors above use: asynchronous, with threads of its own
    reader            the kernel's state, through `dumps`
    links             writes devices, one by one
    batches           writes rtnetlink kinds, packed many to a send
    elements          writes elements of nftables sets and maps
    conntrack         forgets connections that have become stale
    sockets           who listens
    container         a container's interface, through a socket from its namespace
    monitor           what anybody changes
    request_socket    what the writers share
"""

from overlayd.system.netlink.connection import Netlink
from overlayd.system.netlink.container import ContainerNamespace
from overlayd.system.netlink.monitor import Monitor

__all__ = ["ContainerNamespace", "Monitor", "Netlink"]
