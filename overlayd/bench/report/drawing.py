"""The data paths as drawings: what a packet passes between two containers' programs, its copies and wake-ups.

Down the sending host on the left, over the wire, up the receiving host on the right. Boxes in colour are programs, the
others are the kernel. Counted are copies of every byte and wake-ups of a process for a burst, in one direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from overlayd.bench.report import svg
from overlayd.bench.report.colours import colour_of
from overlayd.bench.result import ScenarioRecord

COPY, WAKE = "copy", "wake-up"
_WIDTH, _HEIGHT, _GAP, _TOP = 128.0, 24.0, 22.0, 20.0
"""Of a box; between two of them; above the first one."""
_PROGRAM = colour_of("udp-native")


@dataclass(frozen=True)
class Step:
    """A box, and what it costs to get there from the one before."""

    name: str
    cost: tuple[str, ...] = ()
    program: bool = False


@dataclass(frozen=True)
class DataPath:
    """From program to program; both hosts have the same number of steps."""

    key: str
    title: str
    sender: Sequence[Step]
    receiver: Sequence[Step]

    def count(self, cost: str) -> int:
        """How often that happens on the whole path."""
        return sum(step.cost.count(cost) for step in (*self.sender, *self.receiver))


def _path(key: str, title: str, down: Sequence[Step], up: Sequence[Step]) -> DataPath:
    sender = (Step("program", program=True), Step("veth, bridge", (COPY,)), *down, Step("eth0"))
    receiver = (Step("eth0"), *up, Step("bridge, veth"), Step("program", (COPY, WAKE), program=True))
    return DataPath(key, title, sender, receiver)


PATHS = (
    _path("routed", "The kernel routes", (Step("routes"),), (Step("routes"),)),
    _path(
        "tunnel",
        "The kernel encapsulates",
        (Step("routes"), Step("tunnel device")),
        (Step("tunnel device"), Step("routes")),
    ),
    _path(
        "daemon",
        "A program encapsulates",
        (Step("routes, TUN"), Step("daemon", (COPY, WAKE), program=True), Step("UDP socket", (COPY,))),
        (Step("UDP socket"), Step("daemon", (COPY, WAKE), program=True), Step("TUN, routes", (COPY,))),
    ),
)


def path_of(record: ScenarioRecord) -> str | None:
    """The key of the path that a scenario takes; None for one that no drawing shows."""
    if record.facts.get("engine"):
        return "daemon"
    mode = record.facts.get("mode")
    return "tunnel" if mode in ("vxlan", "wireguard") else "routed" if mode == "host-gw" else None


def draw(path: DataPath) -> str:
    """The drawing as SVG."""
    right, rows = svg.WIDTH - _WIDTH, len(path.sender)
    wire = _TOP + (rows - 1) * (_HEIGHT + _GAP) + _HEIGHT / 2
    parts = [
        svg.text(0, 12, "sending host", "soft"),
        svg.text(right, 12, "receiving host", "soft"),
        *_column(0.0, path.sender, upward=False),
        *_column(right, path.receiver, upward=True),
        f'<path d="M{_WIDTH + 2} {wire}H{right - 3}m-5 -4l5 4l-5 4" class="arrow"/>',
        svg.text(svg.WIDTH / 2, wire - 7, "underlay", "soft", "middle"),
    ]
    return svg.drawing(f"Data path: {path.title}", _TOP + rows * (_HEIGHT + _GAP) - _GAP + 4, parts)


def _column(left: float, steps: Sequence[Step], *, upward: bool) -> Iterator[str]:
    """A host: a box for each step, and between two of them an arrow with its cost."""
    for number, step in enumerate(steps):
        top = _TOP + (len(steps) - 1 - number if upward else number) * (_HEIGHT + _GAP)
        yield svg.rect(left, top, _WIDTH, _HEIGHT, f"c{_PROGRAM} wash" if step.program else "box")
        yield svg.text(left + _WIDTH / 2, top + 16, step.name, "ink", "middle")
        if number:
            between = top + _HEIGHT if upward else top - _GAP
            ends = (between + 2, between + _GAP - 3)
            yield _arrow(left + 8, *(reversed(ends) if upward else ends))
            if step.cost:
                yield svg.text(left + 18, between + 15, " + ".join(step.cost), "strong")


def _arrow(x: float, begin: float, end: float) -> str:
    tip = 4 if end > begin else -4
    return f'<path d="M{x} {begin}V{end}m-4 {-tip}l4 {tip}l4 {-tip}" class="arrow"/>'
