"""flannel's data in etcd: what it writes is read, what overlayd writes has its form, and nothing else passes."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.backend.modes import SETTINGS
from overlayd.core.flannel.config import config_text, ignored_keys, parse_config
from overlayd.core.flannel.form import FormatError
from overlayd.core.flannel.lease import key_of, lease_text, parse_key, parse_lease
from overlayd.core.leases.host_record import HostRecord, host_text, parse_host
from overlayd.core.leases.lease import Lease
from overlayd.core.settings.model import Settings
from overlayd.core.settings.validation import validate

# As flanneld 0.19.2 wrote them.
VXLAN = (
    '{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"06:47:0f:9c:01:2a"}}'
)
DUAL = (
    '{"PublicIP":"192.168.77.1","PublicIPv6":"fd00:77::1","BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"06:47:0f:9c:01:2a"},"BackendV6Data":{"VNI":1,"VtepMAC":"0a:0b:0c:0d:0e:0f"}}'
)
UDP = '{"PublicIP":"192.168.77.1","PublicIPv6":null}'
HOST_GW = '{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"host-gw"}'
V6 = (
    '{"PublicIP":"0.0.0.0","PublicIPv6":"fd00:77::1","BackendType":"vxlan",'
    '"BackendV6Data":{"VNI":1,"VtepMAC":"0a:0b:0c:0d:0e:0f"}}'
)
KEY, DUAL_KEY, V6_KEY = "10.5.52.0-24", "10.5.52.0-24&fc00:0:0:34::-64", "0.0.0.0-0&fc00:0:0:34::-64"


# --- leases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), [(KEY, VXLAN), (DUAL_KEY, DUAL), (KEY, UDP), (KEY, HOST_GW), (V6_KEY, V6)])
def test_what_flannel_writes_is_read_and_written_again_byte_for_byte(key: str, value: str) -> None:
    lease = parse_lease(key, value, SETTINGS.modes)
    assert (key_of(lease), lease_text(lease, SETTINGS.modes)) == (key, value)


def test_what_a_vxlan_lease_says() -> None:
    lease = parse_lease(DUAL_KEY, DUAL, SETTINGS.modes)
    assert lease.subnets == (IPv4Network("10.5.52.0/24"), IPv6Network("fc00:0:0:34::/64"))
    assert (lease.public_ip, lease.public_ipv6) == (IPv4Address("192.168.77.1"), IPv6Address("fd00:77::1"))
    assert (lease.backend, lease.vni, lease.port) == ("vxlan", 1, None)
    assert (lease.mac_over(4), lease.mac_over(6)) == ("06:47:0f:9c:01:2a", "0a:0b:0c:0d:0e:0f")


def test_a_lease_without_backend_is_of_udp() -> None:
    assert parse_lease(KEY, UDP, SETTINGS.modes).backend == "udp"


def test_names_match_in_any_case() -> None:
    value = '{"publicip":"192.0.2.1","BACKENDTYPE":"vxlan","backendData":{"vni":3,"vtepmac":"06-47-0F-9C-01-2A"}}'
    lease = parse_lease(KEY, value, SETTINGS.modes)
    assert (lease.public_ip, lease.vni, lease.vtep_mac) == (IPv4Address("192.0.2.1"), 3, "06:47:0f:9c:01:2a")


def test_an_older_flannel_left_the_vni_out() -> None:
    value = '{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"06:47:0f:9c:01:2a"}}'
    assert parse_lease(KEY, value, SETTINGS.modes).vni is None


def test_names_that_nobody_knows_are_passed_over() -> None:
    assert parse_lease(KEY, '{"PublicIP":"192.0.2.1","Future":[1]}', SETTINGS.modes) == parse_lease(
        KEY, '{"PublicIP":"192.0.2.1"}', SETTINGS.modes
    )


def test_what_a_udp_lease_carries_is_kept_as_it_is() -> None:
    value = '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendData":{"formats":["a"],"n":{"x":1}}}'
    lease = parse_lease(KEY, value, SETTINGS.modes)
    assert lease.data == {"formats": ["a"], "n": {"x": 1}}
    assert lease_text(lease, SETTINGS.modes) == value
    assert hash(lease) == hash(parse_lease(KEY, value, SETTINGS.modes))


def test_what_a_host_knows_beyond_flannels_format_stands_in_its_lease() -> None:
    lease = parse_lease(KEY, '{"PublicIP":"192.0.2.1","BackendData":{"Wire":"overlayd"}}', SETTINGS.modes)
    assert (lease.wire, lease.data) == ("overlayd", None)
    assert (
        lease_text(lease, SETTINGS.modes)
        == '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendData":{"Wire":"overlayd"}}'
    )
    for other in ('{"Wire":"later"}', '{"Wire":1}', '"overlayd"', '{"wire":"overlayd"}'):
        assert parse_lease(KEY, f'{{"PublicIP":"192.0.2.1","BackendData":{other}}}', SETTINGS.modes).wire == "flannel"


def test_other_backends_are_leases_too() -> None:
    lease = parse_lease(
        KEY, '{"PublicIP":"192.0.2.1","BackendType":"ipsec","BackendData":{"PublicKey":"x"}}', SETTINGS.modes
    )
    assert (lease.backend, lease.data) == ("ipsec", None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", "is not JSON: "),
        ("[]", "is not a JSON object"),
        ("[" * 100_000, "is not JSON: "),
        ('{"PublicIP":"192.0.2.300"}', "PublicIP: 192.0.2.300 is not a valid IPv4 address"),
        ('{"PublicIP":"192.0.2.01"}', "PublicIP: 192.0.2.01 is not a valid IPv4 address"),
        ('{"PublicIP":"127.0.0.1"}', "PublicIP: 127.0.0.1 is not an address that other hosts can send to"),
        ('{"PublicIP":"169.254.1.1"}', "PublicIP: 169.254.1.1 is not an address that other hosts can send to"),
        ('{"PublicIP":"224.0.0.1"}', "PublicIP: 224.0.0.1 is not an address that other hosts can send to"),
        ('{"PublicIP":"fd00::1"}', "PublicIP: fd00::1 is not a valid IPv4 address"),
        ('{"PublicIP":7}', "PublicIP: is not an address"),
        ('{"PublicIP":"192.0.2.1","PublicIPv6":"fe80::1%eth0"}', "PublicIPv6: fe80::1%eth0 is not an address that"),
        ('{"PublicIP":"192.0.2.1","BackendType":7}', "BackendType: is not a valid backend name"),
        ('{"PublicIP":"192.0.2.1","BackendType":"a b"}', "BackendType: is not a valid backend name"),
        (
            '{"PublicIP":"192.0.2.1","BackendType":"vxlan"}',
            "BackendData: has no VtepMAC, which every vxlan lease needs",
        ),
        ('{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":[]}', "BackendData: is not an object"),
        ('{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":1}}', "BackendData: has no VtepMAC"),
        (
            '{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"01:00:00:00:00:00"}}',
            "BackendData.VtepMAC: 01:00:00:00:00:00 is a group address; a VTEP needs a unicast one",
        ),
        (
            '{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":true,"VtepMAC":"02:00:00:00:00:01"}}',
            "BackendData.VNI: True is not a valid VNI",
        ),
        (
            '{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":16777216,"VtepMAC":"02:00:00:00:00:01"}}',
            "BackendData.VNI: 16777216 is not a valid VNI",
        ),
    ],
)
def test_a_value_that_makes_no_sense(value: str, text: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_lease(KEY, value, SETTINGS.modes)
    assert str(error.value).startswith(text)


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("", "is not a subnet key; flannel writes 10.5.52.0-24"),
        ("10.5.52.0/24", "is not a subnet key; flannel writes 10.5.52.0-24"),
        ("10.5.52.0", "is not a subnet key; flannel writes 10.5.52.0-24"),
        ("x10.5.52.0-24", "is not a subnet key; flannel writes 10.5.52.0-24"),
        ("10.5.52.0-24/x", "is not a subnet key; flannel writes 10.5.52.0-24"),
        ("10.5.52.0-24\n", "is not a subnet key; flannel writes 10.5.52.0-24"),
        ("10.5.52.1-24", "is not a subnet key: 10.5.52.1/24 has host bits set"),
        ("10.5.52.0-33", "is not a subnet key: "),
        ("10.5.256.0-24", "is not a subnet key: "),
        ("10.5.52.0-24&10.6.0.0-24", "is not a subnet key: "),
        ("10.5.52.0-24&fc00::1-64", "is not a subnet key: fc00::1/64 has host bits set"),
        ("10.5.52.0-24&fc00::-129", "is not a subnet key: "),
        ("0.0.0.0-0", "is not a subnet key: it names no subnet"),
        ("\u0661\u0660.5.52.0-24", "is not a subnet key: "),
    ],
)
def test_a_key_that_makes_no_sense(key: str, text: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_key(key)
    assert str(error.value).startswith(text)


def test_an_ipv6_subnet_alone() -> None:
    assert parse_key(V6_KEY) == (None, IPv6Network("fc00:0:0:34::/64"))
    assert parse_key("fc00:0:0:34::-64") == (None, IPv6Network("fc00:0:0:34::/64"))


SUBNETS4 = st.builds(
    lambda base, length: IPv4Network((base >> (32 - length) << (32 - length), length)),
    st.integers(1 << 24, 2**32 - 1),
    st.integers(8, 30),
)
SUBNETS6 = st.builds(
    lambda base, length: IPv6Network((base >> (128 - length) << (128 - length), length)),
    st.integers(1 << 120, 2**128 - 1),
    st.integers(16, 126),
)
MACS = st.builds(lambda number: (number & ~(1 << 40) | 1 << 41).to_bytes(6, "big").hex(":"), st.integers(0, 2**48 - 1))
KEYS = st.binary(min_size=32, max_size=32).map(lambda raw: base64.b64encode(raw).decode())
PORTS = st.none() | st.integers(1, 65535)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=4)


@st.composite
def leases(draw: st.DrawFn) -> Lease:
    """Any lease that flannel or overlayd could have written."""
    subnet, subnet6 = draw(st.tuples(SUBNETS4 | st.none(), SUBNETS6 | st.none()).filter(any))
    public = draw(st.sampled_from([None, IPv4Address("192.0.2.1"), IPv4Address("10.200.0.9")]))
    public6 = draw(st.sampled_from([None, IPv6Address("2001:db8::1")]))
    backend = draw(st.sampled_from(["udp", "vxlan", "host-gw", "wireguard"]))
    lease = Lease(subnet=subnet, ipv6_subnet=subnet6, public_ip=public, public_ipv6=public6, backend=backend)
    if backend == "vxlan" and (public or public6):
        mac, mac6 = draw(MACS) if public else None, draw(MACS) if public6 else None
        lease = replace(lease, written_mac=mac, written_mac_v6=mac6, vni=draw(st.integers(1, 2**24 - 1)))
    if backend == "udp":
        lease = replace(lease, data=draw(st.none() | st.dictionaries(st.text(), JSON)))
    if backend == "wireguard":
        port, port6 = draw(PORTS) if public else None, draw(PORTS) if public6 else None
        lease = replace(lease, public_key=draw(KEYS) if public or public6 else None, port=port, port_v6=port6)
    return lease


@given(leases())
def test_every_lease_comes_back(lease: Lease) -> None:
    back = parse_lease(key_of(lease), lease_text(lease, SETTINGS.modes), SETTINGS.modes)
    assert back == lease
    assert lease_text(back, SETTINGS.modes) == lease_text(lease, SETTINGS.modes)
    assert json.loads(lease_text(lease, SETTINGS.modes)).keys() <= {
        "PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data"
    }  # fmt: skip


@given(st.text(max_size=40) | st.from_regex(r"[0-9.]{0,16}-[0-9]{0,3}(&[0-9a-f:]{0,20}-[0-9]{0,3})?", fullmatch=True))
def test_any_key_is_read_or_refused(key: str) -> None:
    try:
        subnet, subnet6 = parse_key(key)
    except FormatError:
        return
    assert subnet is not None or subnet6 is not None


NAMES = st.sampled_from(["PublicIP", "publicip", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data", "x"])
DEEP: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["vxlan", "192.0.2.1"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["VNI", "VtepMAC", "y"]), inner),
    max_leaves=6,
)


@given(st.text() | st.dictionaries(NAMES, DEEP).map(json.dumps))
def test_any_value_is_read_or_refused(value: str) -> None:
    try:
        lease = parse_lease(KEY, value, SETTINGS.modes)
    except FormatError:
        return
    assert lease.subnets == (IPv4Network("10.5.52.0/24"),)


TEXTS = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number))) | st.from_regex(
    r"[0-9.]{1,17}", fullmatch=True
)


@given(TEXTS)
def test_public_addresses_are_read_as_the_file_s_are(text: str) -> None:
    """The fast way and the slow one agree."""
    settings = validate({"network": "240.0.0.0/8", "public_ip": text}, SETTINGS)
    value = json.dumps({"PublicIP": text})
    if isinstance(settings, Settings):
        assert parse_lease(KEY, value, SETTINGS.modes).public_ip == settings.public_ip
    elif text != "0.0.0.0" and not text.startswith("240."):  # which lies inside the overlay: not this parser's matter
        with pytest.raises(FormatError):
            parse_lease(KEY, value, SETTINGS.modes)


# --- our own record --------------------------------------------------------------------------------------------------

RECORD = HostRecord("0123abcd", "77", KEY, "host-a", 8472, 8286)


@pytest.mark.parametrize(
    "record", [RECORD, replace(RECORD, name="", port=None, probe=None), replace(RECORD, subnet=DUAL_KEY)]
)
def test_our_record_comes_back(record: HostRecord) -> None:
    assert parse_host(host_text(record)) == record


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"id": None}, "id: is missing or not a valid word"),
        ({"id": "a b"}, "id: is missing or not a valid word"),
        ({"session": 7}, "session: is missing or not a valid word"),
        ({"subnet": "x"}, "is not a subnet key"),
        ({"port": 0}, "port: is not a valid port"),
        ({"port": True}, "port: is not a valid port"),
        ({"probe": 65536}, "probe: is not a valid port"),
        ({"probe": "8286"}, "probe: is not a valid port"),
        ({"name": "\x1b[31m"}, "name: is not a valid host name"),
    ],
)
def test_a_record_that_makes_no_sense(change: dict[str, Any], text: str) -> None:
    with pytest.raises(FormatError, match=text):
        parse_host(json.dumps({**json.loads(host_text(RECORD)), **change}))


@given(
    st.text()
    | st.dictionaries(st.sampled_from(["id", "session", "subnet", "name", "port", "probe"]), DEEP).map(json.dumps)
)
def test_any_record_is_read_or_refused(value: str) -> None:
    try:
        record = parse_host(value)
    except FormatError:
        return
    assert parse_host(host_text(record)) == record


# --- the network's configuration -------------------------------------------------------------------------------------


def problems(text: str) -> list[str]:
    found = parse_config(text, SETTINGS)
    assert isinstance(found, list), "accepted"
    return [str(problem) for problem in found]


def config(text: str) -> Settings:
    found = parse_config(text, SETTINGS)
    assert isinstance(found, Settings), [str(problem) for problem in found]
    return found


def test_a_configuration_of_flannels() -> None:
    found = config(
        '{"Network":"10.5.0.0/16","SubnetLen":24,"SubnetMin":"10.5.10.0","SubnetMax":"10.5.20.0",'
        '"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":64,'
        '"Backend":{"Type":"vxlan","VNI":7,"Port":4789,"MTU":1400,"GBP":true,"Learning":true,"DirectRouting":true}}'
    )
    assert [str(one.network) for one in found.ranges()] == ["10.5.0.0/16", "fc00::/48"]
    assert [str(one) for one in (found.ranges()[0].first, found.ranges()[0].last)] == ["10.5.10.0/24", "10.5.20.0/24"]
    assert (found.mode, found.mtu) == ("vxlan", 1400)
    assert found.vxlan.values() == {
        "vni": 7, "port": 4789, "gbp": True, "learning": True, "direct_routing": True
    }  # fmt: skip


def test_without_a_backend_it_is_udp() -> None:
    assert config('{"Network":"10.5.0.0/16"}').mode == "udp"


def test_names_match_in_any_case_and_zero_is_the_default() -> None:
    found = config('{"NETWORK":"10.5.0.0/16","subnetLen":0,"backend":{"type":"vxlan","vni":0,"port":0}}')
    assert (found.subnet_len, found.vxlan.vni, found.vxlan.port) == (None, 1, 8472)


def test_ipv6_counts_only_where_it_is_enabled() -> None:
    assert config('{"Network":"10.5.0.0/16","IPv6Network":"fc00::/48"}').ipv6_network is None
    alone = config('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}')
    assert [str(one.network) for one in alone.ranges()] == ["fc00::/48"]


@pytest.mark.parametrize(
    ("text", "mode", "network", "ignored"),
    [
        ('{"Comment":"a","Name":"b","Network":"10.5.0.0/16"}', "udp", "10.5.0.0/16", ["Comment", "Name"]),
        ('{"Network":"10.5.0.0/16","Netwrk":1}', "udp", "10.5.0.0/16", ["Netwrk (did you mean Network?)"]),
        (
            '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MacPrefix":"0E-2A","Learnin":1}}',
            "vxlan",
            "10.5.0.0/16",
            ["Backend.MacPrefix", "Backend.Learnin (did you mean Learning?)"],
        ),
        ('{"Network":"10.5.0.0/16","Backend":{"Type":"udp","VNI":1}}', "udp", "10.5.0.0/16", ["Backend.VNI"]),
        ('{"Network":"10.5.0.0/16","Backend":{"Type":"VXLAN"}}', "vxlan", "10.5.0.0/16", []),
        ('{"Network":"10.5.0.0/16","Backend":{"Type":"Host-GW"}}', "host-gw", "10.5.0.0/16", []),
        ('{"Network":"10.77.0.5/16"}', "udp", "10.77.0.0/16", []),
    ],
)
def test_a_configuration_that_flannel_accepts(text: str, mode: str, network: str, ignored: list[str]) -> None:
    found = parse_config(text, SETTINGS)
    assert isinstance(found, Settings), [str(problem) for problem in found]
    assert (found.mode, str(found.network), ignored_keys(text, SETTINGS.modes)) == (mode, network, ignored)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", ["is not JSON"]),
        ("7", ["is not a JSON object"]),
        ("{}", ["Network: is missing; give a network, or set EnableIPv4 to false"]),
        ('{"Network":"10.5.0.0/16","network":"10.6.0.0/16"}', ["network: is given twice; keep one"]),
        ('{"Network":"10.5.0.0/33"}', ["Network: 10.5.0.0/33 is not"]),
        ('{"Network":7}', ["Network: 7 is not text"]),
        ('{"Network":"10.5.0.0/16","SubnetLen":"24"}', ['SubnetLen: "24" is not a whole number']),
        ('{"Network":"10.5.0.0/16","SubnetLen":true}', ["SubnetLen: true is not a whole number"]),
        ('{"Network":"10.5.0.0/16","SubnetLen":17}', ["SubnetLen: 17 does not divide 10.5.0.0/16; use 18 to 30"]),
        ('{"Network":"10.5.0.0/29"}', ["Network: 10.5.0.0/29 is too small to be divided"]),
        ('{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}', ["SubnetMin: 10.6.0.0 lies outside 10.5.0.0/16"]),
        ('{"Network":"10.5.0.0/16","EnableIPv6":1}', ["EnableIPv6: 1 is not true or false"]),
        ('{"Network":"10.5.0.0/16","EnableIPv6":true}', ["IPv6Network: is missing"]),
        ('{"Network":"10.5.0.0/16","Backend":"vxlan"}', ["Backend: is not an object"]),
        (
            '{"Network":"10.5.0.0/16","Backend":{"Type":"ipsec"}}',
            [
                "Backend.Type: ipsec is a flannel backend that overlayd does not have; use udp, vxlan, host-gw, "
                "wireguard"
            ],
        ),
        (
            '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}',
            ["Backend.VNI: 16777216 is out of range"],
        ),
    ],
)
def test_a_configuration_that_makes_no_sense(text: str, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == len(expected)
    for one, beginning in zip(found, expected, strict=True):
        assert one.removeprefix(": ").startswith(beginning)


@given(
    st.text()
    | st.dictionaries(
        st.sampled_from(["Network", "SubnetLen", "SubnetMin", "EnableIPv6", "IPv6Network", "Backend", "x"]),
        DEEP | st.sampled_from(["10.5.0.0/16", {"Type": "vxlan"}, {"Type": "udp", "Port": 1}]),
    ).map(json.dumps)
)
def test_any_configuration_is_read_or_refused_with_reasons(text: str) -> None:
    found = parse_config(text, SETTINGS)
    assert isinstance(found, Settings) or (found and all(str(problem) for problem in found))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"network": "10.5.0.0/16"}, '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'),
        (
            {"network": "10.5.0.0/16", "subnet_len": "26", "mode": "udp", "udp": {"port": "9000"}, "mtu": "1400"},
            '{"Network":"10.5.0.0/16","SubnetLen":26,"Backend":{"Type":"udp","Port":9000,"MTU":1400}}',
        ),
        (
            {"ipv6_network": "fc00::/48", "mode": "host-gw"},
            '{"IPv6Network":"fc00::/48","EnableIPv4":false,"EnableIPv6":true,"Backend":{"Type":"host-gw"}}',
        ),
    ],
)
def test_a_configuration_is_written_as_flannel_reads_it(raw: dict[str, Any], text: str) -> None:
    settings = validate(raw, SETTINGS)
    assert isinstance(settings, Settings)
    assert config_text(settings) == text
    assert config(text) == settings
