"""An attachment with something in every field."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

from overlayd.core.attach.model import Attachment, PublishedPort

ONE = Attachment(
    container="c1",
    interface="eth0",
    addresses=(ip_interface("10.1.1.2/24"), ip_interface("fd00:10:1:1::2/64")),
    mac="02:6f:0a:01:01:02",
    mtu=1450,
    netns="/run/netns/c1",
    netns_id=4026532000,
    ports=(PublishedPort("udp", None, 5353, 53), PublishedPort("tcp", ip_address("127.0.0.1"), 80, 80)),
    sysctls=(("net.core.somaxconn", "1024"),),
    rps="0,1",
    ready=True,
)
