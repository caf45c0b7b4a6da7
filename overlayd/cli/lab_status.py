"""`overlayctl lab status`: the state of a lab's daemons and etcd."""

from __future__ import annotations

import argparse
import json
from typing import Any

import rich.box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from overlayd.lab import Host, Lab, LabError
from overlayd.lab.etcd import Etcd


def run(arguments: argparse.Namespace) -> int:
    """Print a table of the hosts, the members of the etcd and what is wrong; or all of it as JSON. Exit status 0."""
    lab = Lab.load(arguments.name)
    rows = [_host_status(host) for host in lab.hosts]
    members = _etcd_status(lab.etcd) if lab.etcd is not None else []
    if arguments.json:
        print(json.dumps({"name": lab.name, "spec": lab.spec.mapping(), "hosts": rows, "etcd": members}, indent=2))
        return 0
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("host", "mode", "state", "pid", "subnet", "public IP", "peers", "packets out/in"):
        right = column in ("pid", "peers", "packets out/in")
        table.add_column(column, justify="right" if right else "left", no_wrap=True, overflow="fold")
    for row in rows:
        status = row["status"]
        traffic = status.get("traffic") or {}
        table.add_row(
            row["name"],
            str(status.get("mode", "-")),
            row["state"],
            str(row["pid"] or "-"),
            "\n".join(row["subnets"]),
            "\n".join(row["public_ips"]),
            str(len(status["peers"])) if "peers" in status else "-",
            f"{traffic['tx_packets']}/{traffic['rx_packets']}" if traffic else "-",
        )
    console = Console()
    wanted = Measurement.get(console, console.options.update(max_width=200), table).maximum
    console.width = max(console.width, wanted)  # the terminal truncates better than we do
    console.print(table)
    for one in members:
        console.print(
            f"{one['name']}: {one['url']}, {one['state']}, pid {one['pid'] or '-'}", markup=False, soft_wrap=True
        )
    for row in rows:
        for problem in row["status"].get("problems", ()):
            console.print(f"{row['name']}: {problem}", style="yellow", markup=False, soft_wrap=True)
    return 0


def _host_status(host: Host) -> dict[str, Any]:
    """One host's row: what the lab knows, and under `status` what its daemon answers."""
    pid = host.pid
    try:
        status = host.status() if pid else {}
    except LabError as error:
        status = {"state": "silent", "error": str(error)}
    return {
        "name": host.name,
        "namespace": host.namespace,
        "pid": pid,
        "state": str(status.get("state", "no daemon" if pid is None else "silent")),
        "subnets": [str(subnet) for subnet in host.subnets],
        "public_ips": [str(address.ip) for address in host.plan.underlay],
        "containers": {one.name: str(one.address()) for one in host.containers},
        "status": status,
    }


def _etcd_status(etcd: Etcd) -> list[dict[str, Any]]:
    """A row for each member of the lab's etcd."""
    rows = []
    for one in etcd.members:
        state = "down" if one.pid is None else "leads" if etcd.leads(one.url) else "follows"
        if one.pid is not None and not one.health():
            state = "without a quorum, or silent"
        rows.append({"name": one.name, "url": one.url, "pid": one.pid, "state": state})
    return rows
