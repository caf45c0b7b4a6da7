"""A mode is one module: this file adds one of its own, and everything outside backend/ works with it unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_interface
from types import SimpleNamespace
from typing import Any

import pytest

from overlayd.backend.base import Backend, Mode
from overlayd.backend.modes import MODES, make_backend
from overlayd.core.address import Address, Family, Network
from overlayd.core.attach.table import AttachmentTable
from overlayd.core.flannel.config import config_text, parse_config
from overlayd.core.flannel.form import FormatError, Json
from overlayd.core.flannel.lease import key_of, lease_text, parse_lease
from overlayd.core.kernel.firewall import peer_element
from overlayd.core.kernel.kinds import KernelObject, Route, state_of
from overlayd.core.kernel.provider import Surroundings
from overlayd.core.leases.allocation import Choice
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent, LeaseTable
from overlayd.core.mtu import IP_HEADER
from overlayd.core.node import Node, Underlay
from overlayd.core.settings import values
from overlayd.core.settings.model import ProbeSettings, Settings, settings_model
from overlayd.core.settings.options import options
from overlayd.core.settings.section import Section, setting
from overlayd.core.settings.validation import validate
from overlayd.observe.prober import Prober
from overlayd.reconcile.providers import providers
from overlayd.registry.etcd.claim import LeaseRequest, lease_for
from overlayd.system.service_manager import ServiceManager
from overlayd.wire.probe import LENGTH, NONCE, Probe, ProbeKind, Sender, decode

# --- the mode ---------------------------------------------------------------------------------------------------------


class GreSettings(Section):
    """gre-key mode."""

    key: int = setting(1, values.integer(1, 2**32 - 1), "GRE key (RFC 2890)")
    csum: bool = setting(False, values.flag, "checksum the payload")


class GreMode(Mode[GreSettings]):
    """GRE through one shared device; the host's key is in its lease."""

    name = "gre-key"
    summary = "kernel, GRE"
    code = 77
    section = GreSettings
    options = (("Key", "key"), ("Csum", "csum"))

    def overhead(self, underlay_family: Family) -> int:
        return IP_HEADER[underlay_family] + 8

    def lease_fields(self, section: GreSettings) -> dict[str, Any]:
        return {"data": {"Key": section.key}}

    def parse_data(self, data: Any, data6: Any, public: tuple[bool, bool]) -> dict[str, Any]:
        if not isinstance(data, dict) or type(data.get("Key")) is not int:
            raise FormatError("BackendData: has no Key")
        return {"data": data}

    def lease_data(self, lease: Lease) -> Json:
        return {"BackendData": dict(lease.data or {})}

    def obstacle(self, node: Node, peer: Lease, subnet: Network, public: Address) -> str | None:
        assert isinstance(node.section, GreSettings)
        key = (peer.data or {}).get("Key", node.section.key)
        return None if key == node.section.key else f"{subnet} uses GRE key {key}, this host {node.section.key}"

    def backend(self, node: Node, section: GreSettings, manager: ServiceManager) -> Backend:
        return GreBackend(node)


class GreBackend(Backend):
    """See `backend.base.Backend`."""

    devices = ("gre-ovl",)

    def base(self) -> Iterator[KernelObject]:
        yield from ()

    def peer(self, lease: Lease) -> Iterator[KernelObject]:
        for subnet, public in self.node.reachable(lease):
            yield Route(subnet, "gre-ovl", public, mtu=self.node.route_mtu(subnet, public, self.paths))


GRE = GreMode()
SETTINGS = settings_model((*MODES, GRE), default="udp")

# --- what it gets for that --------------------------------------------------------------------------------------------

RAW = {"network": "10.5.0.0/16", "mode": "gre-key", "gre_key": {"key": "7"}, "registry": "etcd"}
CONFIG = '{"Network":"10.5.0.0/16","Backend":{"Type":"gre-key","Key":7}}'
VALUE = '{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"gre-key","BackendData":{"Key":7}}'
PEER = parse_lease("10.5.2.0-24", VALUE, SETTINGS.modes)


def settings(**changes: Any) -> Settings:
    found = validate({**RAW, **changes}, SETTINGS)
    assert isinstance(found, Settings), found
    return found


def node() -> Node:
    given = settings()
    own = Lease(subnet=IPv4Network("10.5.1.0/24"), public_ip=IPv4Address("192.0.2.1"))
    underlay = Underlay("eth0", 2, 1500, (ip_interface("192.0.2.1/24"),), own.public_ip, None)
    return Node(given.spec, given.section, own, underlay, given.ranges())


def test_its_settings() -> None:
    assert settings().section == GreSettings(key="7")
    found = {option.flag: option for option in options(SETTINGS)}
    assert found["--gre-key-key"].variable == "OVERLAYD_GRE_KEY_KEY"
    assert found["--mode"].description.endswith("wireguard (user space, encrypted) or gre-key (kernel, GRE)")
    problems = validate({**RAW, "gre_key": {"key": "0", "kez": "1"}}, SETTINGS)
    assert [str(one) for one in problems] == [
        "gre_key.key: 0 is out of range; use 1 to 4294967295",
        "gre_key.kez: unknown key; did you mean key?",
    ]


def test_the_networks_configuration_in_flannels_form() -> None:
    found = parse_config(CONFIG, SETTINGS)
    assert isinstance(found, Settings)
    assert (found.mode, found.section) == ("gre-key", GreSettings(key="7"))
    assert config_text(found) == CONFIG
    wrong = parse_config(CONFIG.replace("7", '"7"'), SETTINGS)
    assert isinstance(wrong, list)
    assert str(wrong[0]) == 'Backend.Key: "7" is not a whole number'


def test_a_lease_in_flannels_form() -> None:
    assert (PEER.backend, PEER.data) == ("gre-key", {"Key": 7})
    assert (key_of(PEER), lease_text(PEER, SETTINGS.modes)) == ("10.5.2.0-24", VALUE)
    with pytest.raises(FormatError, match="has no Key"):
        parse_lease("10.5.2.0-24", VALUE.replace("Key", "Kez"), SETTINGS.modes)


def test_the_lease_that_a_host_asks_for() -> None:
    request = LeaseRequest.on(node().underlay, settings())
    lease = lease_for(request, Choice((IPv4Network("10.5.1.0/24"),), None, ""), "alpha")
    assert json.loads(lease_text(lease, SETTINGS.modes))["BackendData"] == {"Key": 7}


def test_who_can_be_reached() -> None:
    assert node().problem(PEER) is None
    other = replace(PEER, data={"Key": 8})
    assert node().problem(other) == "10.5.2.0/24 uses GRE key 8, this host 7"
    assert list(node().reachable(other)) == []
    assert (node().problem(replace(PEER, backend="vxlan")) or "").startswith("10.5.2.0/24 uses backend vxlan")


def test_its_mtu() -> None:
    assert node().overlay_mtu == 1500 - 28
    assert (
        node().route_mtu(IPv4Network("10.5.2.0/24"), IPv4Address("192.0.2.2"), {IPv4Address("192.0.2.2"): 1400}) == 1372
    )


def test_its_number_in_probes() -> None:
    codes = [mode.code for mode in SETTINGS.modes.values()]
    assert len(set(codes)) == len(codes)
    answer = decode(Probe(ProbeKind.ANSWER, Sender(node().spec.code, "1.0", 1472, True), bytes(NONCE), LENGTH).encode())
    assert answer is not None
    prober = Prober(ProbeSettings(), lambda: answer.sender, {mode.code: mode.name for mode in SETTINGS.modes.values()})
    target: Any = SimpleNamespace(sender=answer.sender)
    assert prober.mode_of(target) == "gre-key"


def test_its_backend_and_what_is_desired() -> None:
    backend = make_backend(node())
    assert isinstance(backend, GreBackend)
    assert backend.data_path is None
    all_of_them = providers(backend, settings(), LeaseTable(), AttachmentTable())
    route = Route(IPv4Network("10.5.2.0/24"), "gre-ovl", IPv4Address("192.0.2.2"))
    desired = state_of(thing for one in all_of_them for thing in one.objects(Surroundings([PEER])))
    rules = "nft table inet overlayd, 4 rules"  # which protect the probe port
    element = peer_element(IPv4Address("192.0.2.2"))
    assert list(map(str, desired.values())) == [str(route), "route unreachable 10.5.0.0/16", rules, str(element)]
    events = [LeaseEvent(PEER, None)]
    others = [([], [])] * (len(all_of_them) - 2)
    assert [one.on_leases(events) for one in all_of_them] == [([route], []), *others, ([element], [])]
