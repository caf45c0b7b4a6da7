"""A host as flannel sets it up, by hand: its lease, devices, routes, neighbours, FDB entries and rules, and a process
of its name that in udp mode carries packets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from overlayd.core.address import Family
from overlayd.lab import Host
from overlayd.wire.mac import derive_mac
from support.etcd_cluster import etcd_of, flannel_value, put_as_flannel
from support.waiting import eventually

NETWORK = "10.1.0.0/16"

_FLANNELD = """
import fcntl, ipaddress, os, select, signal, socket, struct, subprocess, sys

open("/proc/self/comm", "w").write("flanneld")
mode, public, subnet, network, *peers = sys.argv[1:]
if mode != "udp":
    signal.pause()
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"flannel0", 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
for line in (f"addr add {subnet.replace('/24', '/32')} dev flannel0", "link set flannel0 mtu 1472 up",
             f"route add {network} dev flannel0"):
    subprocess.run(["ip", *line.split()], check=True)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((public, 8285))
table = [(ipaddress.ip_network(one.split("=")[0]), one.split("=")[1]) for one in peers]
while True:
    for ready in select.select([tun, sock], [], [])[0]:
        if ready is sock:
            os.write(tun, sock.recv(65535))
            continue
        packet = os.read(tun, 65535)
        to = ipaddress.ip_address(packet[16:20])
        for subnet, public in table:
            if packet[0] >> 4 == 4 and to in subnet:
                sock.sendto(packet, (public, 8285))
"""


class FlannelHost:
    """flannel on this host, in the lab's mode."""

    def __init__(self, host: Host, peers: Sequence[Host]) -> None:
        self._host, self._peers, self._mode = host, peers, host.lab.spec.mode
        self._process: subprocess.Popen[bytes] | None = None
        self.value = flannel_value(str(host.public_ip), backend=self._mode)
        if len(host.subnets) == 2:
            self.value["PublicIPv6"] = str(host.public(6))
            self.value["BackendV6Data"] = {"VNI": 1, "VtepMAC": _mac(host, 6)}

    @property
    def pid(self) -> int:
        """flanneld's."""
        assert self._process is not None
        return self._process.pid

    def acquire(self) -> int:
        """Its lease; the number of the etcd lease."""
        return put_as_flannel(etcd_of(self._host), "&".join(map(str, self._host.subnets)), self.value)

    def start(self) -> None:
        """Start flanneld; what is there already is adopted, or added."""
        host = self._host
        host.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": len(host.subnets) - 1})
        lines = {"vxlan": self._vxlan, "host-gw": self._host_gw, "udp": list}[self._mode]()
        for line in lines:
            host.run(*line.split())
        peers = [f"{one.subnet}={one.public_ip}" for one in self._peers]
        arguments = [self._mode, str(host.public_ip), str(host.subnet), NETWORK, *peers]
        self._process = host.popen(sys.executable, "-c", _FLANNELD, *arguments)
        eventually(self._started, "flanneld is there")
        mtu = {"vxlan": 1450, "udp": 1472}.get(self._mode, 1500)
        gateway = str(host.subnet).replace(".0/", ".1/")
        host.subnet_file.write_text(
            f"FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET={gateway}\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=false\n"
        )

    def _started(self) -> bool:
        named = Path(f"/proc/{self.pid}/comm").read_text() == "flanneld\n"
        return named and (self._mode != "udp" or NETWORK in self._host.run("ip", "route").stdout)

    def stop(self) -> None:
        """Stop flanneld; all but flannel0 stays. Safe to call twice."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def _vxlan(self) -> list[str]:
        return [line for subnet in self._host.subnets for line in self._vxlan_over(subnet.version)]

    def _vxlan_over(self, family: Family) -> list[str]:
        """One device for each family, over itself, with a MAC of its own."""
        host, device = self._host, "flannel.1" if family == 4 else "flannel-v6.1"
        lines = []
        if f"{device}:" not in host.run("ip", "link").stdout:
            link = f"type vxlan id 1 dev eth0 local {host.public(family)} dstport 8472 nolearning"
            mtu = 1450 if len(host.subnets) == 1 else 1430
            lines.append(f"ip link add {device} address {_mac(host, family)} mtu {mtu} {link}")
        lines += [f"ip addr replace {_base(host, family)}/{32 if family == 4 else 128} dev {device}"]
        lines += [f"ip link set {device} up"]
        for peer in self._peers:
            base, its = _base(peer, family), _mac(peer, family)
            lines += [
                f"ip neigh replace {base} lladdr {its} dev {device} nud permanent",
                f"bridge fdb replace {its} dev {device} dst {peer.public(family)} self permanent",
                f"ip route replace {peer.plan.lease.subnet_of(family)} via {base} dev {device} onlink",
            ]
        return lines

    def _host_gw(self) -> list[str]:
        return [f"ip route replace {peer.subnet} via {peer.public_ip} dev eth0" for peer in self._peers]

    def add_rules(self) -> None:
        """The chains of iptables and the tables of nftables, of both its implementations."""
        pod, cluster = str(self._host.subnet), NETWORK
        for line in (
            "-t nat -N FLANNEL-POSTRTG",
            f"-t nat -A FLANNEL-POSTRTG -s {pod} -d {cluster} -m comment --comment flanneld -j RETURN",
            f"-t nat -A FLANNEL-POSTRTG -s {cluster} ! -d 224.0.0.0/4 -m comment --comment flanneld -j MASQUERADE",
            "-t nat -A POSTROUTING -m comment --comment flanneld -j FLANNEL-POSTRTG",
            "-t filter -N FLANNEL-FWD",
            f"-t filter -A FLANNEL-FWD -s {cluster} -m comment --comment flanneld -j ACCEPT",
            f"-t filter -A FLANNEL-FWD -d {cluster} -m comment --comment flanneld -j ACCEPT",
            "-t filter -A FORWARD -m comment --comment flanneld -j FLANNEL-FWD",
            "-t filter -A FORWARD -s 10.99.0.0/16 -j ACCEPT",
        ):
            self._host.run("iptables", *line.split())
        table = "add table ip flannel-ipv4\nadd chain ip flannel-ipv4 forward"
        self._host.run("nft", "-f", "-", input=f"{table} {{ type filter hook forward priority 0; }}\n")


def _base(host: Host, family: Family) -> str:
    subnet = host.plan.lease.subnet_of(family)
    assert subnet is not None
    return str(subnet.network_address)


def _mac(host: Host, family: Family) -> str:
    return derive_mac(str(host.public(family)))
