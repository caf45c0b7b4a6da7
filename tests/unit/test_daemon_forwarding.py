"""The forwarding switches: on after a start, on again when switched off, only checked if so set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from overlayd.daemon import forwarding as module
from overlayd.daemon.forwarding import Forwarding
from overlayd.observe.overlay import Overlay
from overlayd.system.errors import HostError
from support.logs import capture_logs

IPV4, IPV6, RA = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/eth0/accept_ra"


class Sysctls(dict[str, str]):
    """The kernel's."""

    read_only = False

    def write(self, name: str, value: str) -> None:
        if self.read_only:
            raise HostError(f"{name}: Read-only file system")
        self[name] = value


@pytest.fixture
def sysctls(monkeypatch: pytest.MonkeyPatch) -> Sysctls:
    one = Sysctls({IPV4: "0", IPV6: "0", RA: "1"})
    monkeypatch.setattr(module, "read_sysctl", one.get)
    monkeypatch.setattr(module, "write_sysctl", one.write)
    monkeypatch.setattr(module, "is_sysctl_writable", lambda name: not one.read_only)
    return one


def overlay(ip_forward: str = "set", families: tuple[int, ...] = (4, 6)) -> Overlay:
    node = SimpleNamespace(families=families, underlay=SimpleNamespace(name="eth0"))
    return cast(
        Overlay,
        SimpleNamespace(node=node, settings=SimpleNamespace(ip_forward=ip_forward), switch_repairs=0),
    )


def test_a_switch_that_is_switched_off_is_repaired(sysctls: Sysctls) -> None:
    one = overlay()
    forwarding = Forwarding(one)
    forwarding.enable()
    assert sysctls == {IPV4: "1", IPV6: "1", RA: "2"}
    sysctls[IPV4] = "0"
    with capture_logs() as logs:
        forwarding.repair()
    assert (sysctls[IPV4], forwarding.faults(), one.switch_repairs) == ("1", [], 1)
    (entry,) = logs
    assert (entry["msg"], entry["operation"]) == ("kernel state repaired", "net.ipv4.ip_forward = 1")


def test_only_the_families_of_containers(sysctls: Sysctls) -> None:
    Forwarding(overlay(families=(4,))).enable()
    assert sysctls == {IPV4: "1", IPV6: "0", RA: "1"}


def test_what_is_only_checked_is_a_fault(sysctls: Sysctls) -> None:
    one = overlay("check")
    forwarding = Forwarding(one)
    assert module.refusals(one.settings, one.node) == module.planned(one.settings, one.node) == []
    forwarding.enable()
    forwarding.repair()
    assert sysctls == {IPV4: "0", IPV6: "0", RA: "1"}
    assert forwarding.faults()[0] == (
        "net.ipv4.ip_forward is off: containers reach nobody (sysctl -w net.ipv4.ip_forward=1)"
    )


def test_a_switch_that_cannot_be_set_refuses_the_start_and_ends_nothing_later(sysctls: Sysctls) -> None:
    sysctls[RA] = "0"
    sysctls.read_only = True
    one = overlay()
    forwarding = Forwarding(one)
    assert [str(refused) for refused in module.refusals(one.settings, one.node)] == [
        f"net.{name} is off and cannot be written; switch it on, or set ip_forward: check"
        for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding")
    ]
    with capture_logs() as logs:
        forwarding.repair()
        forwarding.repair()
    assert len(forwarding.faults()) == 2
    assert len(logs) == 1, "said once"
