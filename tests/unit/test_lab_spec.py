"""The plan of a lab: names, addresses, MTUs and settings, without touching the machine."""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.core.settings.model import Settings
from overlayd.core.settings.validation import validate
from overlayd.lab.drawing import draw
from overlayd.lab.etcd import Etcd
from overlayd.lab.etcd_member import Endpoint
from overlayd.lab.registry import host_configuration, network_config
from overlayd.lab.spec import LabError, LabSpec, configuration, merged, namespace_pattern, plan, plan_etcd


def test_plan_of_two_dual_stack_hosts() -> None:
    one, two = plan(LabSpec(name="x", family="dual", underlay="dual", containers=2))
    assert (one.name, one.namespace, two.namespace) == ("h1", "ovl-x-h1", "ovl-x-h2")
    assert [str(address) for address in one.underlay] == ["192.0.2.1/24", "fd00:192:0:2::1/64"]
    assert [str(address) for address in two.bridge] == ["10.1.2.1/24", "fd00:10:1:2::1/64"]
    assert two.lease_entry() == {
        "name": "h2",
        "subnet": "10.1.2.0/24",
        "ipv6_subnet": "fd00:10:1:2::/64",
        "public_ip": "192.0.2.2",
        "public_ipv6": "fd00:192:0:2::2",
    }
    last = two.containers[1]
    assert (last.name, last.namespace) == ("h2c2", "ovl-x-h2c2")
    assert [str(address) for address in last.addresses] == ["10.1.2.3/24", "fd00:10:1:2::3/64"]
    assert [str(gateway) for gateway in last.gateways] == ["10.1.2.1", "fd00:10:1:2::1"]


@pytest.mark.parametrize(
    ("spec", "mtu"),
    [
        ({"mode": "udp"}, 1472),
        ({"mode": "vxlan"}, 1450),
        ({"mode": "host-gw"}, 1500),
        ({"mode": "none"}, 1500),
        ({"mode": "vxlan", "underlay": "ipv6"}, 1430),
        ({"mode": "vxlan", "underlay": "dual", "family": "dual"}, 1430),
        ({"mode": "udp", "underlay": "dual"}, 1472),  # IPv4 containers: only IPv4 carries
        ({"mode": "udp", "underlay_mtu": 9000}, 8972),
        ({"mode": "udp", "settings": {"mtu": 1400}}, 1400),
    ],
)
def test_containers_get_the_overlay_mtu(spec: dict[str, Any], mtu: int) -> None:
    assert {host.overlay_mtu for host in plan(LabSpec(**spec))} == {mtu}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"name": "Über"}, "'Über' is not a valid lab name; use up to 31 of a-z, 0-9 and -, not beginning with -"),
        ({"name": "../x"}, "name: '../x' is not a valid lab name"),
        ({"registry": "consul"}, "registry: consul is not one of static, etcd"),
        ({"offloads": False}, "offloads: False is not one of wire, on, off"),
        ({"registry": "etcd", "etcd_members": 4}, "etcd_members: 4 is out of range; use 1 to 3"),
        ({"hosts": 0}, "hosts: 0 is out of range; use 1 to 250"),
        ({"containers": -1}, "containers: -1 is out of range"),
        ({"mode": "vlan"}, "mode: vlan is not one of udp, vxlan, host-gw, wireguard, none"),
        ({"family": "ip"}, "family: ip is not one of ipv4, ipv6, dual"),
        ({"underlay_mtu": 70000}, "underlay_mtu: 70000 is out of range"),
        ({"underlay": "ipv6", "underlay_mtu": 1000}, "underlay_mtu: 1000 is too small for IPv6"),
        ({"mode": "vxlan", "family": "ipv6", "underlay_mtu": 1300}, "underlay_mtu: 1300 leaves 1250 for containers"),
        ({"settings": {"netwrk": "10.1.0.0/16"}}, "settings: netwrk: unknown key; did you mean network?"),
        ({"settings": {"network": "10.9.0.0/22"}, "hosts": 9}, "hosts: 9 do not fit: 10.9.0.0/22"),
        ({"settings": {"subnet_len": 30}, "containers": 2}, "containers: 2 do not fit into 10.1.0.4/30"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(spec: dict[str, Any], text: str) -> None:
    with pytest.raises(LabError) as error:
        plan(LabSpec(**spec))
    assert text in str(error.value)


def test_settings_choose_the_subnets_and_reach_the_file() -> None:
    spec = LabSpec(mode="vxlan", settings={"network": "10.9.0.0/16", "vxlan": {"port": 4789, "learning": True}})
    assert [str(host.lease.subnet) for host in plan(spec)] == ["10.9.1.0/24", "10.9.2.0/24"]
    assert configuration(spec) == {
        "iface": "eth0",
        "mode": "vxlan",
        "network": "10.9.0.0/16",
        "vxlan": {"port": 4789, "learning": True},
    }


def test_the_lease_table_of_250_hosts_is_one_that_the_daemon_takes() -> None:
    hosts = plan(LabSpec(hosts=250, containers=0, family="dual", underlay="dual"))
    raw = {"network": "10.1.0.0/16", "ipv6_network": "fd00:10:1::/48", "leases": [host.lease_entry() for host in hosts]}
    assert isinstance(validate(raw, SETTINGS), Settings)


def test_a_spec_survives_json() -> None:
    spec = LabSpec(name="a-1", family="dual", offloads="off", settings={"udp": {"port": 9}})
    assert LabSpec(**json.loads(json.dumps(spec.mapping()))) == spec


def test_no_lab_takes_another_ones_namespaces() -> None:
    assert namespace_pattern("a").fullmatch("ovl-a-h12c3")
    assert namespace_pattern("a").fullmatch("ovl-a-switch")
    assert not namespace_pattern("a").fullmatch("ovl-a-h1-h1")  # h1 of lab "a-h1"
    assert not namespace_pattern("a").fullmatch("ovl-ab-h1")
    assert not namespace_pattern("a").fullmatch("ovl-a-h1c1x")


def test_merged_goes_into_mappings_and_leaves_its_arguments_alone() -> None:
    base = {"udp": {"port": 1, "engine": "python"}, "leases": [1]}
    assert merged(base, {"udp": {"port": 2}, "leases": [3]}) == {"udp": {"port": 2, "engine": "python"}, "leases": [3]}
    assert base == {"udp": {"port": 1, "engine": "python"}, "leases": [1]}


def test_drawing_of_two_hosts() -> None:
    spec = LabSpec(mode="vxlan")
    assert draw(spec, plan(spec)).splitlines() == [
        "┌─ h1 ──────────────────────┐  ┌─ h2 ──────────────────────┐",
        "│ h1c1      10.1.1.2        │  │ h2c1      10.1.2.2        │",
        "│ br0       10.1.1.1/24     │  │ br0       10.1.2.1/24     │",
        "│ overlayd  vxlan, MTU 1450 │  │ overlayd  vxlan, MTU 1450 │",
        "│ eth0      192.0.2.1       │  │ eth0      192.0.2.2       │",
        "└─────────────┬─────────────┘  └─────────────┬─────────────┘",
        "              ╘══════════════════════════════╛",
        "underlay: a cable, 192.0.2.0/24, MTU 1500",
    ]


def test_drawing_of_many_hosts_stays_within_its_width_and_shows_each() -> None:
    spec = LabSpec(hosts=7, mode="udp", family="dual")
    lines = draw(spec, plan(spec), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(f"h{number}c1" in line for line in lines) for number in range(1, 8))


def test_an_etcd_comes_after_the_hosts_on_a_switch() -> None:
    (single,) = plan_etcd(LabSpec(name="x", registry="etcd"))
    assert (single.name, single.namespace) == ("etcd", "ovl-x-etcd")
    assert [str(address) for address in single.underlay] == ["192.0.2.251/24"]
    several = plan_etcd(LabSpec(name="x", registry="etcd", etcd_members=3, underlay="ipv6"))
    assert [(one.name, str(one.underlay[0])) for one in several] == [
        ("etcd1", "fd00:192:0:2::fb/64"),
        ("etcd2", "fd00:192:0:2::fc/64"),
        ("etcd3", "fd00:192:0:2::fd/64"),
    ]
    assert all(namespace_pattern("x").fullmatch(one.namespace) for one in (single, *several))
    assert plan_etcd(LabSpec(name="x")) == ()


def test_drawing_of_a_lab_with_an_etcd() -> None:
    spec = LabSpec(mode="vxlan", registry="etcd", containers=0)
    assert draw(spec, plan(spec)).splitlines() == [
        "┌─ h1 ──────────────────────┐  ┌─ h2 ──────────────────────┐",
        "│ br0       10.1.1.1/24     │  │ br0       10.1.2.1/24     │  ┌─ etcd ────────────────────┐",
        "│ overlayd  vxlan, MTU 1450 │  │ overlayd  vxlan, MTU 1450 │  │ etcd      port 2379       │",
        "│ eth0      192.0.2.1       │  │ eth0      192.0.2.2       │  │ eth0      192.0.2.251     │",
        "└─────────────┬─────────────┘  └─────────────┬─────────────┘  └─────────────┬─────────────┘",
        "              ╘══════════════════════════════╧══════════════════════════════╛",
        "underlay: a switch, 192.0.2.0/24, MTU 1500",
    ]


def test_what_etcd_says_stands_in_no_hosts_file() -> None:
    settings = {"vxlan": {"port": 4789}, "subnet_len": 26, "udp": {"port": 9, "engine": "python"}}
    spec = LabSpec(mode="vxlan", family="dual", registry="etcd", settings=settings)
    etcd = Etcd(Path("/nowhere"))
    etcd.add("etcd", Endpoint(ip_address("192.0.2.251")))
    assert host_configuration(configuration(spec), etcd) == {
        "registry": "etcd",
        "etcd": {"endpoints": "http://192.0.2.251:2379", "prefix": "/coreos.com/network"},
        "iface": "eth0",
        "udp": {"engine": "python"},
    }
    assert network_config(spec) == {
        "Network": "10.1.0.0/16",
        "SubnetLen": 26,
        "EnableIPv4": True,
        "IPv6Network": "fd00:10:1::/48",
        "EnableIPv6": True,
        "Backend": {"Type": "vxlan", "VNI": 1, "Port": 4789, "GBP": False, "Learning": False, "DirectRouting": False},
    }
