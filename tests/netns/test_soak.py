"""The soak of tests/support/soak.py for a short while; `make soak` takes longer."""

from __future__ import annotations

import pytest

from support import soak

SECONDS = 12
SEED = 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["udp", "vxlan"])
def test_soak_briefly(mode: str) -> None:
    carried = soak.soak(SECONDS, SEED, print, mode=mode)
    assert len(carried) == 12, "three pairs, two families, two directions"
