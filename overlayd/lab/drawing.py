"""A lab as a drawing of plain text: a box for each host and each member of its etcd, and the underlay below."""

from __future__ import annotations

from collections.abc import Sequence

from overlayd.lab.etcd_member import CLIENT_PORT
from overlayd.lab.spec import EtcdPlan, HostPlan, LabSpec, plan_etcd
from overlayd.lab.topology import has_cable


def draw(spec: LabSpec, hosts: Sequence[HostPlan], width: int = 100) -> str:
    """The drawing, at most `width` columns wide unless one host alone is wider; hosts wrap into rows."""
    contents = {host.name: _host(spec, host) for host in hosts} | {one.name: _etcd(one) for one in plan_etcd(spec)}
    inside = max(len(line) for name, content in contents.items() for line in [name, *content]) + 2
    boxes = [_box(name, content, inside) for name, content in contents.items()]
    height = max(len(box) for box in boxes)
    column = inside + 2
    per_row = max(1, (width + 2) // (column + 2))
    lines: list[str] = []
    for first in range(0, len(boxes), per_row):
        row = [[*[" " * column] * (height - len(box)), *box] for box in boxes[first : first + per_row]]
        lines += ["  ".join(parts).rstrip() for parts in zip(*row, strict=True)]
        lines.append(_wire(column, len(row), last=first + per_row >= len(boxes)))
    underlay = " and ".join(str(address.network) for address in hosts[0].underlay)
    joined = "a cable" if has_cable(spec) else "a switch"
    lines.append(f"underlay: {joined}, {underlay}, MTU {spec.underlay_mtu}")
    return "\n".join(lines)


def _host(spec: LabSpec, host: HostPlan) -> list[str]:
    content = []
    for container in host.containers:
        content += _named(container.name, [str(address.ip) for address in container.addresses])
    content += _named("br0", [str(address) for address in host.bridge])
    if spec.mode != "none":
        content.append(f"overlayd  {spec.mode}, MTU {host.overlay_mtu}")
    return [*content, *_named("eth0", [str(address.ip) for address in host.underlay])]


def _etcd(member: EtcdPlan) -> list[str]:
    return [f"etcd      port {CLIENT_PORT}", *_named("eth0", [str(address.ip) for address in member.underlay])]


def _box(name: str, content: Sequence[str], inside: int) -> list[str]:
    middle = inside // 2
    return [
        f"┌─ {name} " + "─" * (inside - len(name) - 3) + "┐",
        *(f"│ {line:<{inside - 1}}│" for line in content),
        "└" + "─" * middle + "┬" + "─" * (inside - middle - 1) + "┘",
    ]


def _named(name: str, values: Sequence[str]) -> list[str]:
    return [f"{name if index == 0 else '':<9} {value}" for index, value in enumerate(values)]


def _wire(column: int, count: int, last: bool) -> str:
    """The line that joins the stubs under the boxes of a row; it goes on to the next row where there is one."""
    stub = 1 + (column - 2) // 2
    length = (count - 1) * (column + 2)
    joints = {index * (column + 2) for index in range(count)}
    wire = ["╧" if at in joints else "═" for at in range(length + 1)]
    wire[-1] = "╛" if last else "╧"
    wire[0] = "╘" if length or not last else "╧"
    return " " * stub + "".join(wire) + ("" if last else "══ …")
