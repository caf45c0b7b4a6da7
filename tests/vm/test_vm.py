"""The service on two virtual machines, on a kernel of Debian's own; vm.py has the picture. Tests that say nothing
of a kernel are those of the machines that systemd-nspawn boots."""

from __future__ import annotations

import pytest
from machine import Pair
from test_service import test_a_stop_leaves_the_state_and_a_cleanup_nothing as a_stop_and_a_cleanup
from test_service import test_another_mode_takes_over_and_leaves_nothing as another_mode_and_back
from test_service import test_least_privilege, test_what_systemd_shows

__all__ = ["test_least_privilege", "test_what_systemd_shows"]
pytestmark = pytest.mark.timeout(400)


# --- once is enough: they take long -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["udp"])
def test_another_mode_takes_over_and_leaves_nothing(running: Pair, mode: str) -> None:
    another_mode_and_back(running, mode)


@pytest.mark.parametrize("mode", ["udp"])
def test_a_stop_leaves_the_state_and_a_cleanup_nothing(running: Pair, mode: str) -> None:
    a_stop_and_a_cleanup(running, mode)
