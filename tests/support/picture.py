"""All that is the overlay's in a host's kernel, to be compared; and the processor time of a process."""

from __future__ import annotations

import json
from pathlib import Path

from overlayd.lab import Host

DEVICES = {"udp": ["ovl0"], "vxlan": ["ovl.1", "ovl6.1"], "host-gw": [], "wireguard": ["ovl0"]}


def picture(host: Host, mode: str) -> list[str]:
    """All that is the overlay's in a host's kernel, as `ip`, `bridge` and `nft` tell it; no counters, no indices."""
    lines = []
    for command in ("ip -4 route show", "ip -6 route show", "nft -s list table inet overlayd"):
        lines += host.run(*command.split(), check=False).stdout.splitlines()
    for device in DEVICES[mode]:
        (link,) = json.loads(host.run("ip", "-j", "-d", "addr", "show", device, check=False).stdout or "[{}]") or [{}]
        # The link-local address of a TUN is random at every making.
        addresses = [one["local"] for one in link.get("addr_info", []) if one["scope"] != "link"]
        flags = sorted(set(link.get("flags", [])) & {"UP", "LOWER_UP"})
        lines.append(f"{device} {link.get('address')} mtu {link.get('mtu')} {flags} {addresses}")
        lines += host.run("ip", "neigh", "show", "dev", device, "nud", "permanent", check=False).stdout.splitlines()
        lines += host.run("bridge", "fdb", "show", "dev", device, check=False).stdout.splitlines()
    return sorted(line.strip() for line in lines if "fe80::" not in line)


def ticks(pid: int) -> int:
    """Processor time of a process, user and system, in clock ticks (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
