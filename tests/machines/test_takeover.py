"""README's "Coming from flannel, and going back", command by command, on a machine whose flanneld systemd runs."""

from __future__ import annotations

import re

import pytest

from overlayd.wire.mac import derive_mac
from support.machine import ROOT, Pair
from support.pings import pinging
from support.waiting import eventually

YAML = "mode: vxlan\nnetwork: 10.1.0.0/16\nleases_file: leases.yaml\n"
LEASES = "".join(
    f"  - name: {name}\n    subnet: 10.1.{number}.0/24\n    public_ip: 192.0.2.{number}\n"
    for number, name in ((1, "a"), (2, "b"))
)
MACS = [derive_mac(f"overlayd vtep 10.1.{number}.0-24") for number in (1, 2)]

FLANNELD = f"""#!/bin/sh
set -e
link="type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472 nolearning"
ip link show flannel.1 || ip link add flannel.1 address {MACS[0]} mtu 1450 $link
ip addr replace 10.1.1.0/32 dev flannel.1
ip link set flannel.1 up
ip neigh replace 10.1.2.0 lladdr {MACS[1]} dev flannel.1 nud permanent
bridge fdb replace {MACS[1]} dev flannel.1 dst 192.0.2.2 self permanent
ip route replace 10.1.2.0/24 via 10.1.2.0 dev flannel.1 onlink
sysctl -w net.ipv4.ip_forward=1 || echo 1 > /proc/sys/net/ipv4/ip_forward
while :; do sleep 1; done
"""
UNIT = "[Service]\nExecStart=/usr/local/sbin/flanneld\n[Install]\nWantedBy=multi-user.target\n"


def commands() -> tuple[list[str], list[str]]:
    """Those of the section: there, and back."""
    text = (ROOT / "README.md").read_text().partition("## Coming from flannel")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?:^    .+\n)+", text, re.MULTILINE)
    assert len(blocks) == 2
    there, back = ([line.partition("#")[0].strip() for line in block.splitlines()] for block in blocks)
    return there, back


@pytest.mark.timeout(400)
def test_there_and_back(pair: Pair) -> None:
    a, b = pair.a, pair.b
    for machine in (a, b):
        machine.write("/etc/overlayd/overlayd.yaml", YAML)
        machine.write("/etc/overlayd/leases.yaml", f"leases:\n{LEASES}")
    b.sh("systemctl", "start", "overlayd@vxlan")
    a.write("/usr/local/sbin/flanneld", FLANNELD)
    a.sh("chmod", "+x", "/usr/local/sbin/flanneld")
    a.write("/etc/systemd/system/flanneld.service", UNIT)
    a.sh("systemctl", "daemon-reload")
    a.sh("systemctl", "enable", "--now", "flanneld")
    eventually(lambda: a.container.ping("10.1.2.2", timeout=0.5), "flannel to overlayd")
    there, back = commands()
    with pinging(a.container, "10.1.2.2"):
        for line in there:
            a.sh(*line.split())
    assert "flannel" not in a.run("ip", "link").stdout
    assert a.show("overlayd@vxlan", "ActiveState") == "active"
    assert a.show("flanneld", "ActiveState") == "inactive"
    assert [a.show(unit, "UnitFileState") for unit in ("overlayd@vxlan", "flanneld")] == ["enabled", "disabled"]
    with pinging(a.container, "10.1.2.2"):
        for line in back:
            a.sh(*line.split())
    assert "ovl" not in a.run("ip", "link").stdout
    assert a.show("flanneld", "ActiveState") == "active"
    assert a.show("overlayd@vxlan", "ActiveState") == "inactive"
    assert [a.show(unit, "UnitFileState") for unit in ("overlayd@vxlan", "flanneld")] == ["disabled", "enabled"]
    assert a.run("nft", "list", "tables").stdout == ""
