"""wireguard mode as configuration, leases and keys; its packets are in test_wireguard_engine.py."""

from __future__ import annotations

import base64
import json
import stat
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from pathlib import Path
from typing import Any

import pytest

from overlayd.backend.modes import SETTINGS, make_backend, prepared
from overlayd.core.flannel.config import config_text, parse_config
from overlayd.core.flannel.form import FormatError
from overlayd.core.flannel.lease import lease_text, parse_lease
from overlayd.core.kernel.provider import Surroundings
from overlayd.core.leases.allocation import Choice
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Node, Underlay
from overlayd.core.settings.model import Settings
from overlayd.core.settings.validation import validate
from overlayd.datapath.peers import PeerTable
from overlayd.registry.etcd.claim import LeaseRequest, lease_for
from overlayd.system.errors import HostError
from overlayd.system.private_key import read_private_key

KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
OTHER = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
PSK = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
RAW = {"network": "10.5.0.0/16", "mode": "wireguard", "registry": "etcd"}
VALUE = (
    '{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"wireguard",'
    f'"BackendData":{{"PublicKey":"{KEY}","Port":51820}}}}'
)
DUAL = (
    '{"PublicIP":"192.0.2.2","PublicIPv6":"2001:db8::2","BackendType":"wireguard",'
    f'"BackendData":{{"PublicKey":"{KEY}","Port":51820}},"BackendV6Data":{{"PublicKey":"{KEY}","Port":51821}}}}'
)


def settings(directory: Path | None = None, **changes: Any) -> Settings:
    found = validate({**RAW, **({"state_dir": str(directory)} if directory else {}), **changes}, SETTINGS)
    assert isinstance(found, Settings), found
    return found


def node(given: Settings, public_key: str | None) -> Node:
    own = Lease(subnet=IPv4Network("10.5.1.0/24"), public_ip=IPv4Address("192.0.2.1"), public_key=public_key)
    underlay = Underlay("eth0", 2, 1500, (ip_interface("192.0.2.1/24"),), own.public_ip, None)
    return Node(given.spec, given.section, own, underlay, given.ranges())


def peer(value: str = VALUE) -> Lease:
    return parse_lease("10.5.2.0-24", value, SETTINGS.modes)


# --- in flannel's form ------------------------------------------------------------------------------------------------


def test_the_networks_configuration() -> None:
    text = (
        '{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard","ListenPort":4500,"ListenPortV6":4501,'
        f'"PSK":"{PSK}","PersistentKeepaliveInterval":25}}}}'
    )
    found = parse_config(text, SETTINGS)
    assert isinstance(found, Settings)
    section: Any = found.section
    assert (section.port, section.port_v6, section.persistent_keepalive) == (4500, 4501, 25)
    assert section.psk.reveal() == PSK
    assert config_text(found) == text
    assert PSK not in repr(found)


@pytest.mark.parametrize("psk", ["short", "x" * 44])
def test_a_preshared_key_that_is_none_is_refused_and_not_shown(psk: str) -> None:
    text = json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "wireguard", "PSK": psk}})
    wrong = parse_config(text, SETTINGS)
    assert isinstance(wrong, list)
    assert str(wrong[0]) == "Backend.PSK: is not a WireGuard key; write the 44 characters of base64 that wg prints"


@pytest.mark.parametrize("value", [VALUE, DUAL])
def test_a_lease(value: str) -> None:
    lease = peer(value)
    assert (lease.public_key, lease.port) == (KEY, 51820)
    assert lease.port_over(6) == (51821 if value == DUAL else 51820)
    assert lease_text(lease, SETTINGS.modes) == value


def test_a_lease_without_a_port_is_on_the_common_one() -> None:
    lease = peer(VALUE.replace(',"Port":51820', ""))
    assert lease.port is None
    table = PeerTable(node(settings(), OTHER), lambda family: {4: 51820, 6: 51821}[family])
    table.replace(node(settings(), OTHER), [lease])
    ((_, found),) = table._routes[lease.key]
    assert (found.host, found.port, found.sender) == ("192.0.2.2", 51820, KEY)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (f'"PublicKey":"{KEY}",', "", "BackendData: has no PublicKey"),
        (KEY, KEY[:-4], "BackendData.PublicKey: .* is not a WireGuard key"),
        (KEY, KEY[:-2] + "h=", "BackendData.PublicKey: .* is not a WireGuard key"),
        (f'"{KEY}"', "1", "BackendData: has no PublicKey"),
        ("51820", "65536", "BackendData.Port: 65536 is not a valid port"),
        ("51820", "true", "BackendData.Port: True is not a valid port"),
        (f'{{"PublicKey":"{KEY}","Port":51820}}', "[]", "BackendData: is not an object"),
        (f'{{"PublicKey":"{KEY}","Port":51820}}', "null", "BackendData: has no PublicKey, which every wireguard lease"),
    ],
)
def test_a_lease_that_is_wrong(old: str, new: str, text: str) -> None:
    with pytest.raises(FormatError, match=text):
        peer(VALUE.replace(old, new))


def test_a_lease_with_two_keys_is_refused() -> None:
    with pytest.raises(FormatError, match=r"BackendV6Data\.PublicKey: is not BackendData's"):
        peer(DUAL[::-1].replace(KEY[::-1], OTHER[::-1], 1)[::-1])


def test_the_lease_that_a_host_asks_for(tmp_path: Path) -> None:
    given = prepared(settings(tmp_path))
    request = LeaseRequest.on(node(given, None).underlay, given)
    lease = lease_for(request, Choice((IPv4Network("10.5.1.0/24"),), None, ""), "alpha")
    section: Any = given.section
    data = json.loads(lease_text(lease, SETTINGS.modes))["BackendData"]
    assert data == {"PublicKey": section.public_key, "Port": 51820}


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    first, second = prepared(settings(tmp_path)), prepared(settings(tmp_path))
    path = tmp_path / "wireguard.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(base64.b64decode(path.read_text())) == 32
    assert first.section == second.section
    assert path.read_text().strip() not in repr(first)
    path.unlink()
    assert prepared(settings(tmp_path)).section != first.section  # another key makes another data path


def test_a_check_makes_none(tmp_path: Path) -> None:
    section: Any = prepared(settings(tmp_path), read_only=True).section
    assert section.public_key is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "short", "x" * 44, "A" * 43 + "\n" + "A" * 43])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wireguard.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(HostError, match="not a WireGuard private key"):
        read_private_key(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    prepared(settings(tmp_path))
    (tmp_path / "wireguard.key").chmod(mode)
    with pytest.raises(HostError, match=f"its mode is 0{mode:o}.*chmod 600"):
        prepared(settings(tmp_path))


def test_two_rows_with_one_key_are_refused() -> None:
    rows = [{"subnet": f"10.5.{n}.0/24", "public_ip": f"192.0.2.{n}", "public_key": KEY} for n in (1, 2)]
    problems = validate({**RAW, "registry": "static", "leases": rows}, SETTINGS)
    assert [str(one) for one in problems] == [
        f"leases[1].public_key: {KEY} is also that of leases[0]; each host needs its own"
    ]


# --- hosts ------------------------------------------------------------------------------------------------------------


def test_its_own_row_has_to_have_its_key(tmp_path: Path) -> None:
    given = prepared(settings(tmp_path))
    section: Any = given.section
    assert given.spec.fault(node(given, section.public_key)) is None
    assert (given.spec.fault(node(given, None)) or "").endswith(f"has no key; write public_key: {section.public_key}")
    assert "correct the row, or bring the right file back" in (given.spec.fault(node(given, KEY)) or "")


def test_who_can_be_reached() -> None:
    here = node(settings(), OTHER)
    assert here.problem(peer()) is None
    assert here.problem(replace(peer(), public_key=None)) == (
        "10.5.2.0/24 has no public_key in its lease; add it (a start on that host prints it)"
    )
    assert here.problem(replace(peer(), public_key=OTHER)) == (
        "10.5.2.0/24 has this host's own public_key; each host needs its own"
    )
    assert (here.problem(replace(peer(), backend="udp")) or "").startswith("10.5.2.0/24 uses backend udp")


def test_keys_of_a_table_mean_nothing_in_other_modes() -> None:
    other = settings(mode="udp")
    lease = replace(peer(), backend="udp", port=8285)
    table = PeerTable(node(other, OTHER), lambda _: 8285)
    table.replace(node(other, OTHER), [lease])
    ((_, found),) = table._routes[lease.key]
    assert found.sender == "192.0.2.2"


def test_its_mtu_is_flannels_over_both_families() -> None:
    here = node(settings(), OTHER)
    assert here.overlay_mtu == 1420
    assert {here.spec.overhead(family) for family in (4, 6)} == {80}


def test_its_port_is_not_the_probes() -> None:
    for key in ("port", "port_v6"):
        problems = validate({**RAW, "wireguard": {key: "8286"}}, SETTINGS)
        assert [str(one) for one in problems] == ["probe.port: 8286 is mode wireguard's port; give probes their own"]


def test_what_is_desired(tmp_path: Path) -> None:
    backend = make_backend(node(prepared(settings(tmp_path)), OTHER))
    lines = [str(one) for one in backend.objects(Surroundings([peer()]))]
    assert lines[0].startswith("link ovl0 mtu 1420 up")
    assert lines[1] == "address 10.5.1.0/32 dev ovl0"
    assert lines[2].startswith("route 10.5.2.0/24 dev ovl0")


def test_a_host_with_ipv6_alone() -> None:
    value = (
        VALUE.replace('"192.0.2.2"', '"0.0.0.0"')
        .replace("null", '"2001:db8::2"')
        .replace("BackendData", "BackendV6Data")
    )
    lease = parse_lease("0.0.0.0-0&fc00:0:0:2::-64", value, SETTINGS.modes)
    assert (lease.public_ipv6, lease.ipv6_subnet) == (IPv6Address("2001:db8::2"), IPv6Network("fc00:0:0:2::/64"))
    assert (lease.public_key, lease.port_over(6)) == (KEY, 51820)
