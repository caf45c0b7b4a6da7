"""What the tests of clusters share: leases as flannel writes them, and what etcd and the kernels hold."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from overlayd.lab import Host
from overlayd.lab.etcd import Etcd
from overlayd.lab.etcdctl import PREFIX
from overlayd.wire.mac import derive_mac
from support.waiting import eventually

SUBNETS = f"{PREFIX}/subnets/"
DAY = 86400


def etcd_of(host: Host) -> Etcd:
    """The etcd of the host's lab."""
    assert host.lab.etcd is not None
    return host.lab.etcd


def written(etcd: Etcd) -> dict[str, dict[str, Any]]:
    """The leases that are in etcd: values by subnet, "10.1.1.0/24" (of dual stack keys the IPv4 one)."""
    found = etcd.below(SUBNETS)
    return {subnet_of(key): json.loads(value) for key, value in found.items()}


def subnet_of(key: str) -> str:
    """ ".../10.1.1.0-24&fd00::-64" as 10.1.1.0/24."""
    return key.removeprefix(SUBNETS).partition("&")[0].replace("-", "/")


def key_of(subnet: object) -> str:
    """10.1.1.0/24 as etcd's key."""
    return SUBNETS + str(subnet).replace("/", "-")


def flannel_value(public_ip: str, *, vni: int = 1, backend: str = "vxlan") -> dict[str, Any]:
    """What flannel writes for a host with this address (facts: udp leases carry no backend)."""
    value: dict[str, Any] = {"PublicIP": public_ip, "PublicIPv6": None}
    if backend != "udp":
        value["BackendType"] = backend
    if backend == "vxlan":
        value["BackendData"] = {"VNI": vni, "VtepMAC": derive_mac(public_ip)}
    return value


def put_as_flannel(etcd: Etcd, subnet: str, value: dict[str, Any], ttl: int = DAY) -> int:
    """Put a lease on an etcd lease of its own, as flannel does; returns the latter's number."""
    before = etcd.lease_of(key_of(subnet)) if etcd.get(key_of(subnet)) is not None else 0
    lease = etcd.grant(ttl)
    etcd.put(key_of(subnet), value, lease)
    if before:
        etcd.revoke(before)  # flannel would let it leak
    return lease


def take_away(etcd: Etcd, subnet: str) -> None:
    """End a lease that `put_as_flannel` made: its key, and the etcd lease that it hangs on."""
    lease = etcd.lease_of(key_of(subnet))
    etcd.delete(key_of(subnet))
    if lease:
        etcd.revoke(lease)


def put_many(etcd: Etcd, subnets: Sequence[str], mode: str, at_once: int = 120) -> None:
    """Put leases without an end, many to a transaction, so that many events come in one answer (etcd's limit: 128)."""
    puts = []
    for number, subnet in enumerate(subnets):
        value = json.dumps(flannel_value(f"198.18.{number >> 8}.{number & 255}", backend=mode), separators=(",", ":"))
        puts.append(f"put {key_of(subnet)} {json.dumps(value)}\n")
    for start in range(0, len(puts), at_once):
        etcd.ctl("txn", input="\n" + "".join(puts[start : start + at_once]) + "\n\n")


def delete_many(etcd: Etcd, subnets: Sequence[str], at_once: int = 120) -> None:
    """Delete leases, many to a transaction."""
    for start in range(0, len(subnets), at_once):
        lines = "".join(f"del {key_of(subnet)}\n" for subnet in subnets[start : start + at_once])
        etcd.ctl("txn", input=f"\n{lines}\n\n")


def own_subnet(host: Host) -> str:
    """The subnet that the daemon says it holds."""
    return str(host.status()["lease"]["subnet"])


def connected(host: Host) -> bool:
    """Whether the daemon says that it speaks with etcd."""
    return bool(host.status()["registry_state"]["connected"])


def stale(host: Host) -> bool:
    """Whether the daemon says that its leases are from its disk."""
    return host.status()["registry_state"]["stale"] is not None


def routes(host: Host) -> set[str]:
    """The subnets that the kernel has routes of overlayd's for."""
    shown = host.run("ip", "-4", "route", "show", "proto", "178").stdout
    return {line.split()[0] for line in shown.splitlines() if not line.startswith("unreachable")}


def agree(nodes: Sequence[Host], etcd: Etcd) -> bool:
    """Whether every node's lease is in etcd, and every kernel has a route for each of the others and no more."""
    table = written(etcd)
    held = {own_subnet(node): str(node.public_ip) for node in nodes}
    if len(held) != len(nodes) or any(table.get(one, {}).get("PublicIP") != ip for one, ip in held.items()):
        return False
    return all(routes(node) == table.keys() - {own_subnet(node)} for node in nodes)


def await_agreement(nodes: Sequence[Host], timeout: float = 40) -> None:
    """Wait for `agree`, over all that the daemons retry."""

    def settled() -> bool:
        return all(node.pid is not None and node.check_ready() for node in nodes) and agree(nodes, etcd_of(nodes[0]))

    eventually(settled, "all nodes have the same table as etcd", timeout=timeout)


def lines(host: Host, *words: str) -> list[str]:
    """The log's lines that hold all the words."""
    return [line for line in host.log().splitlines() if all(word in line for word in words)]


@contextlib.contextmanager
def cut_off(host: Host) -> Iterator[None]:
    """Packets between the host and etcd, and no others, are dropped for the block."""
    members = ", ".join(str(one.endpoint.address) for one in etcd_of(host).members)
    rules = f"""
table ip cut {{
    chain out {{ type filter hook output priority 0; ip daddr {{ {members} }} drop; }}
    chain in {{ type filter hook input priority 0; ip saddr {{ {members} }} drop; }}
}}
"""
    host.run("nft", "-f", "-", input=rules)
    try:
        yield
    finally:
        host.run("nft", "delete", "table", "ip", "cut")


def forget(host: Host) -> None:
    """As if the host had never run: no subnet.env, no identity, nothing on its bridge."""
    host.run("ip", "addr", "flush", "dev", "br0")
    host.subnet_file.unlink(missing_ok=True)
    for path in sorted((host.directory / "state").glob("*")):
        path.unlink()


def secrets_in(text: str, etcd: Etcd) -> list[str]:
    """The lab's passwords that stand in the text."""
    return [word for word in re.findall(r"[\w-]*-secret-\d", text) if word]
