"""What the reconciler gives back."""

from __future__ import annotations

from dataclasses import dataclass

from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.firewall import ForeignChain
from overlayd.core.kernel.kinds import KernelState, Key


@dataclass(frozen=True, slots=True)
class Findings:
    """What a comparison with the kernel found to be repaired."""

    operations: list[Operation]
    desired: KernelState
    lost: set[Key]
    """Transient objects that are gone."""
    touched: set[Key]
    """What events have applied since it began; grows while they go on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a start would do to the kernel."""

    operations: list[Operation]
    flannel_rules: tuple[ForeignChain, ...]
    """Chains that flannel left."""


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What others' changes have led to, and what else they call for."""

    repaired: bool
    """Whether single objects were repaired."""
    comparison: bool
    """Whether a full comparison is needed."""
    underlay: bool
    """Whether the underlay interface has changed."""
    refused: bool
    """Whether there are objects that the kernel has refused."""
