from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlayd.backend.modes import SETTINGS
from overlayd.core.leases.lease import Lease
from overlayd.core.settings.model import LeaseEntry, Settings
from overlayd.core.settings.options import Option, options
from overlayd.core.settings.problem import Problem, dotted
from overlayd.core.settings.validation import validate, without_empty
from overlayd.registry.static import StaticRegistry

BASE = {"network": "10.1.0.0/16"}
DUAL = {**BASE, "ipv6_network": "fd00:10::/48"}
ALPHA = {"subnet": "10.1.1.0/24", "public_ip": "192.168.0.1"}
BETA = {"subnet": "10.1.2.0/24", "public_ip": "192.168.0.2"}


def accepted(raw: dict[str, Any]) -> Settings:
    found = validate(raw, SETTINGS)
    assert isinstance(found, Settings), problems(raw)
    return found


def problems(raw: dict[str, Any]) -> list[str]:
    found = validate(raw, SETTINGS)
    assert isinstance(found, list), "accepted"
    return [str(problem) for problem in found]


def with_leases(*leases: dict[str, Any], base: dict[str, Any] = BASE) -> dict[str, Any]:
    return {**base, "leases": list(leases)}


# --- what is accepted -------------------------------------------------------------------------------------------------


def test_defaults_are_flannels() -> None:
    found = accepted(BASE)
    assert found.mode == "vxlan"
    assert (found.udp.port, found.vxlan.port, found.vxlan.vni) == (8285, 8472, 1)
    assert (found.vxlan.learning, found.vxlan.gbp, found.vxlan.direct_routing) == (False, False, False)
    assert found.subnet_file == "/run/flannel/subnet.env"
    assert (found.ip_masq, found.healthz_ip, found.healthz_port) == (False, "0.0.0.0", 0)
    assert (found.leases, found.mtu, found.iface, found.public_ip) == ((), None, None, None)
    [found_range] = found.ranges()
    assert (found_range.first, found_range.subnet_len) == (IPv4Network("10.1.1.0/24"), 24)


def test_everything_at_once() -> None:
    found = accepted(
        {
            **DUAL,
            "mode": "udp",
            "subnet_len": "26",
            "subnet_min": "10.1.0.64",
            "subnet_max": "10.1.7.192",
            "ipv6_subnet_len": "64",
            "ipv6_subnet_min": "fd00:10::",
            "iface": "eth0",
            "iface_regex": "^eth",
            "iface_can_reach": "192.168.0.2",
            "mtu": "1400",
            "public_ip": " 192.168.0.1 ",
            "udp": {"port": "9000", "engine": "python"},
            "vxlan": {"vni": "16777215", "learning": "YES", "gbp": "on", "direct_routing": "true"},
            "ip_masq": "true",
            "forward_rules": "off",
            "healthz_port": "0",
            "leases": [
                {
                    "subnet": "10.1.0.64/26",
                    "ipv6_subnet": "fd00:10::/64",
                    "public_ip": "192.168.0.1",
                    "public_ipv6": "fd77::1",
                    "vtep_mac": "06-47-0F-9C-01-2A",
                    "name": "alpha",
                }
            ],
        }
    )
    assert found.public_ip == IPv4Address("192.168.0.1")
    assert (found.udp.port, found.udp.engine) == (9000, "python")
    assert found.vxlan.vni == 2**24 - 1
    assert (found.vxlan.learning, found.vxlan.gbp, found.vxlan.direct_routing) == (True, True, True)
    assert (found.ip_masq, found.forward_rules) == (True, False)
    assert [found_range.count for found_range in found.ranges()] == [31, 65536]
    assert [entry.lease() for entry in found.leases] == [
        Lease(
            subnet=IPv4Network("10.1.0.64/26"),
            ipv6_subnet=IPv6Network("fd00:10::/64"),
            public_ip=IPv4Address("192.168.0.1"),
            public_ipv6=IPv6Address("fd77::1"),
            written_mac="06:47:0f:9c:01:2a",
            name="alpha",
        )
    ]


@pytest.mark.parametrize("empty", ["", None, "null", "~"])
def test_an_empty_value_is_as_good_as_none(empty: str | None) -> None:
    raw = {**BASE, "mtu": empty, "subnet_min": empty, "iface": empty, "udp": empty, "leases": empty}
    assert accepted(raw) == accepted(BASE)
    nested = {**BASE, "udp": {"port": empty}, "leases": [{**ALPHA, "name": empty}]}
    assert accepted(nested) == accepted(with_leases(ALPHA))


def test_a_blank_value_is_empty_too() -> None:
    assert accepted({**BASE, "iface": "  ", "mtu": " "}) == accepted(BASE)


def test_without_empty_keeps_what_is_false_or_zero() -> None:
    raw = {"a": "0", "b": "false", "c": [], "d": {"e": "", "f": "x"}, "g": [{"h": None}]}
    assert without_empty(raw) == {"a": "0", "b": "false", "c": [], "d": {"f": "x"}, "g": [{}]}


@pytest.mark.parametrize("text", ["fd00:10::/48", "FD00:0010::/48", "fd00:10:0:0::/48", "fd00:10:0:0:0:0:0:0/48"])
def test_every_spelling_of_a_network(text: str) -> None:
    assert accepted({"ipv6_network": text}).ipv6_network == IPv6Network("fd00:10::/48")


def test_two_hosts() -> None:
    found = accepted(with_leases(ALPHA, BETA))
    assert [entry.lease().key for entry in found.leases] == ["10.1.1.0-24", "10.1.2.0-24"]


# --- single values ----------------------------------------------------------------------------------------------------

WHOLE_PORT = "is not a whole number; use 1 to 65535"
PORT_RANGE = "is out of range; use 1 to 65535"
NOT_V4 = "is not a valid IPv4 address (the setting for the other family is public_ipv6)"
NOT_V6 = "is not a valid IPv6 address (the setting for the other family is public_ip)"
UNREACHABLE = "is not an address that other hosts can send to"
NO_MTU = "is not a valid MTU; use 576 to 65535"
NO_IFACE = "is neither an interface name nor an address"
NO_V4_NETWORK = "is not a valid IPv4 network; write it like 10.1.0.0/16"
NO_V6_NETWORK = "is not a valid IPv6 network; write it like fd00:10:1::/48"
NOT_FOR_HOSTS = "is multicast, loopback or link-local; an overlay needs private or global addresses"


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("mode", "tunnel", "is not one of udp, vxlan, host-gw, wireguard"),
        ("mode", "vxlam", "is not one of udp, vxlan, host-gw, wireguard; did you mean vxlan?"),
        ("mode", "host_gw", "is not one of udp, vxlan, host-gw, wireguard; did you mean host-gw?"),
        ("mode", "VXLAN", "is not one of udp, vxlan, host-gw, wireguard"),
        ("network", "10.1.0.0", "has no prefix length; write it like 10.1.0.0/16"),
        ("network", "10.1.16.5/24", "has host bits set; did you mean 10.1.16.0/24?"),
        ("network", "10.1.0.0/33", NO_V4_NETWORK),
        ("network", "10.1.0/16", NO_V4_NETWORK),
        ("network", "10.1.0.0/", NO_V4_NETWORK),
        ("network", "ten/16", NO_V4_NETWORK),
        ("network", "fd00::/48", "is an IPv6 network, and this setting takes an IPv4 one"),
        ("network", "224.0.0.0/8", NOT_FOR_HOSTS),
        ("network", "127.0.0.0/16", NOT_FOR_HOSTS),
        ("network", "169.254.0.0/16", NOT_FOR_HOSTS),
        ("ipv6_network", "fd00:10::", "has no prefix length; write it like fd00:10:1::/48"),
        ("ipv6_network", "fd00:10::1/48", "has host bits set; did you mean fd00:10::/48?"),
        ("ipv6_network", "fd00:10::/129", NO_V6_NETWORK),
        ("ipv6_network", "fd00:10::%eth0/48", NO_V6_NETWORK),
        ("ipv6_network", "10.1.0.0/16", "is an IPv4 network, and this setting takes an IPv6 one"),
        ("ipv6_network", "ff00::/16", NOT_FOR_HOSTS),
        ("ipv6_network", "fe80::/48", NOT_FOR_HOSTS),
        ("subnet_len", "/24", "is not a whole number; use 1 to 30"),
        ("subnet_len", "31", "is out of range; use 1 to 30"),
        ("ipv6_subnet_len", "127", "is out of range; use 1 to 126"),
        ("subnet_min", "10.1.0.0/24", "is not a valid IPv4 address"),
        ("subnet_min", "fd00::", "is not a valid IPv4 address"),
        ("ipv6_subnet_max", "10.1.0.0", "is not a valid IPv6 address"),
        ("ipv6_subnet_max", "fd00:10::%eth0", "is not a valid IPv6 address"),
        ("iface", "eth 0", NO_IFACE),
        ("iface", "/dev/eth0", NO_IFACE),
        ("iface", "x" * 46, NO_IFACE),
        ("iface_can_reach", "192.168.0.0/24", NO_IFACE),
        ("iface_regex", "eth[", "is not a valid regular expression: unterminated character set at position 3"),
        ("public_ip", "192.168.0", NOT_V4),
        ("public_ip", "fd77::1", NOT_V4),
        ("public_ip", "example.org", NOT_V4),
        ("public_ip", "224.0.0.1", UNREACHABLE),
        ("public_ip", "0.0.0.0", UNREACHABLE),
        ("public_ip", "127.0.0.1", UNREACHABLE),
        ("public_ip", "169.254.1.1", UNREACHABLE),
        ("public_ip", "255.255.255.255", UNREACHABLE),
        ("public_ipv6", "192.168.0.1", NOT_V6),
        ("public_ipv6", "::", UNREACHABLE),
        ("public_ipv6", "::1", UNREACHABLE),
        ("public_ipv6", "fe80::1", UNREACHABLE),
        ("public_ipv6", "fe80::1%eth0", UNREACHABLE),
        ("public_ipv6", "ff02::1", UNREACHABLE),
        ("public_ipv6", "fd77::1%eth0", "has a zone, which means nothing to other hosts; remove the part after the %"),
        ("public_ipv6", "::ffff:192.168.0.1", "is an IPv4-mapped IPv6 address; write public_ip: 192.168.0.1"),
        ("mtu", "575", NO_MTU),
        ("mtu", "65536", NO_MTU),
        ("mtu", "-1500", NO_MTU),
        ("mtu", "1500.0", NO_MTU),
        ("mtu", "1500²", NO_MTU),
        ("mtu", "1" * 5000, NO_MTU),
        ("registry", "etcdd", "is not one of static, etcd; did you mean etcd?"),
        ("udp.port", "0", PORT_RANGE),
        ("udp.port", "65536", PORT_RANGE),
        ("udp.port", "-1", PORT_RANGE),
        ("udp.port", "8285/udp", WHOLE_PORT),
        ("udp.port", "0x1000", WHOLE_PORT),
        ("udp.port", "1e3", WHOLE_PORT),
        ("udp.port", "1" * 13, WHOLE_PORT),
        ("udp.port", "9000²", WHOLE_PORT),
        ("udp.engine", "pyton", "is not one of auto, native, python; did you mean python?"),
        ("vxlan.port", "65536", PORT_RANGE),
        ("probe.port", "65536", "is out of range; use 0 to 65535"),
        ("probe.interval", "0s", "is out of range; use 1s to 1h"),
        ("probe.interval", "soon", "is not a valid duration; write 24h, 60m or 90s (a bare number is in minutes)"),
        ("metrics_peers", "-1", "is out of range; use 0 to 100000"),
        ("vxlan.vni", "0", "is out of range; use 1 to 16777215"),
        ("vxlan.vni", "16777216", "is out of range; use 1 to 16777215"),
        ("vxlan.learning", "1", "is neither true nor false"),
        ("vxlan.gbp", "maybe", "is neither true nor false"),
        ("ip_forward", "sett", "is not one of set, check; did you mean set?"),
        ("ip_masq", "y", "is neither true nor false"),
        ("healthz_port", "65536", "is out of range; use 0 to 65535"),
        ("healthz_ip", "0.0.0.0/0", NO_IFACE),
        ("log_format", "xml", "is not one of text, json"),
        ("log_level", "warn", "is not one of debug, info, warning, error; did you mean warning?"),
        ("subnet_file", "a\0b", "is not a valid file name"),
        ("control_socket", "a\0b", "is not a valid file name"),
    ],
)
def test_wrong_value(path: str, value: str, text: str) -> None:
    section, _, key = path.rpartition(".")
    raw = {**BASE, section: {key: value}} if section else {**BASE, key: value}
    assert problems(raw) == [f"{path}: {value} {text}"]


def test_host_bits_as_the_style_guide_shows_them() -> None:
    assert problems(with_leases(ALPHA, BETA, {**BETA, "subnet": "10.1.16.5/24"})) == [
        "leases[2].subnet: 10.1.16.5/24 has host bits set; did you mean 10.1.16.0/24?"
    ]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"vtep_mac": "06:47"}, "vtep_mac: 06:47 is not a MAC address; write six octets like 06:47:0f:9c:01:2a"),
        (
            {"vtep_mac": "01:00:5e:00:00:01"},
            "vtep_mac: 01:00:5e:00:00:01 is a group address; a VTEP needs a unicast one (an even first octet)",
        ),
        (
            {"vtep_mac": "00:00:00:00:00:00"},
            "vtep_mac: 00:00:00:00:00:00 is the all-zero address; leave it out to have one derived",
        ),
        ({"public_ip": "192.168.0.256"}, f"public_ip: 192.168.0.256 {NOT_V4}"),
        (
            {"ipv6_subnet": "10.1.1.0/24"},
            "ipv6_subnet: 10.1.1.0/24 is an IPv4 network, and this setting takes an IPv6 one",
        ),
    ],
)
def test_wrong_value_in_a_lease(entry: dict[str, str], text: str) -> None:
    assert problems(with_leases(ALPHA, {**BETA, **entry})) == [f"leases[1].{text}"]


@pytest.mark.parametrize("bomb", ["a{99999999999999999999}", "(" * 20_000 + ")" * 20_000])
def test_a_regular_expression_that_python_gives_up_on(bomb: str) -> None:
    [problem] = problems({**BASE, "iface_regex": bomb})
    assert "is not a valid regular expression" in problem


# --- wrong shapes -----------------------------------------------------------------------------------------------------

NOT_SINGLE = "takes a single value, not a list or a mapping"
NO_MAPPING = "is not a mapping; write `key: value` lines below it"
NO_LIST = "is not a list; write one `- subnet: ...` for each host"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"mode": ["udp"]}, f"mode: {NOT_SINGLE}"),
        ({"mtu": []}, f"mtu: {NOT_SINGLE}"),
        ({"mtu": {"bytes": "1400"}}, f"mtu: {NOT_SINGLE}"),
        ({"public_ip": {}}, f"public_ip: {NOT_SINGLE}"),
        ({"subnet_file": ["a"]}, f"subnet_file: {NOT_SINGLE}"),
        ({"udp": "8285"}, f"udp: 8285 {NO_MAPPING}"),
        ({"udp": ["8285"]}, f"udp: {NO_MAPPING}"),
        ({"udp": {"port": ["8285"]}}, f"udp.port: {NOT_SINGLE}"),
        ({"leases": "10.1.1.0/24"}, f"leases: 10.1.1.0/24 {NO_LIST}"),
        ({"leases": {"subnet": "10.1.1.0/24"}}, f"leases: {NO_LIST}"),
        ({"leases": ["10.1.1.0/24"]}, f"leases[0]: 10.1.1.0/24 {NO_MAPPING}"),
        ({"leases": [[]]}, f"leases[0]: {NO_MAPPING}"),
        ({"leases": [None]}, f"leases[0]: {NO_MAPPING}"),
        ({"leases": [{**ALPHA, "name": ["alpha"]}]}, f"leases[0].name: {NOT_SINGLE}"),
    ],
)
def test_wrong_shape(raw: dict[str, Any], text: str) -> None:
    assert problems({**BASE, **raw}) == [text]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"netwrok": "10.1.0.0/16"}, "netwrok: unknown key; did you mean network?"),
        ({"public-ip": "192.168.0.1"}, "public-ip: unknown key; did you mean public_ip?"),
        ({"udp": {"prot": "8285"}}, "udp.prot: unknown key; did you mean port?"),
        ({"udp": {"vni": "1"}}, "udp.vni: unknown key; known here: port, engine, busy_poll_us, wire, without_offloads"),
        ({"vxlan": {"learn": "true"}}, "vxlan.learn: unknown key; did you mean learning?"),
        (
            {"leases": [{**ALPHA, "publicip": "192.168.0.1"}]},
            "leases[0].publicip: unknown key; did you mean public_ip?",
        ),
        (
            {"leases": [{**ALPHA, "zzz": "1"}]},
            "leases[0].zzz: unknown key; known here: subnet, ipv6_subnet, public_ip, public_ipv6, vtep_mac, name, wire,"
            " public_key",
        ),
    ],
)
def test_unknown_key(raw: dict[str, Any], text: str) -> None:
    assert problems({**BASE, **raw}) == [text]


def test_unknown_key_like_no_other_is_told_all_there_are() -> None:
    assert problems({**BASE, "zzz": "1"}) == [f"zzz: unknown key; known here: {', '.join(SETTINGS.fields)}"]


def test_every_mistake_is_told_at_once() -> None:
    raw = {"network": "10.1.0.5/16", "mtu": "big", "udp": {"port": "0"}, "leases": [{"subnett": "x"}]}
    assert problems(raw) == [
        "network: 10.1.0.5/16 has host bits set; did you mean 10.1.0.0/16?",
        f"mtu: big {NO_MTU}",
        "leases[0].subnett: unknown key; did you mean subnet?",
        f"udp.port: 0 {PORT_RANGE}",
    ]


# --- values against each other ----------------------------------------------------------------------------------------

NO_NETWORK = "network: is missing; give a network such as 10.1.0.0/16 (or an ipv6_network)"


@pytest.mark.parametrize("raw", [{}, {"network": ""}, {"network": None, "mode": "udp", "leases": [ALPHA]}])
def test_nothing_is_set(raw: dict[str, Any]) -> None:
    assert problems(raw) == [NO_NETWORK]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"network": "10.1.0.0/29"}, "network: 10.1.0.0/29 is too small to be divided; use /28 or a shorter prefix"),
        ({"subnet_len": "17"}, "subnet_len: 17 does not divide 10.1.0.0/16; use 18 to 30"),
        ({"subnet_min": "10.2.0.0"}, "subnet_min: 10.2.0.0 lies outside 10.1.0.0/16; choose a subnet inside it"),
        ({"subnet_max": "10.1.9.9"}, "subnet_max: 10.1.9.9 is not the base of a /24; did you mean 10.1.9.0?"),
        (
            {"subnet_min": "10.1.9.0", "subnet_max": "10.1.8.0"},
            "subnet_max: 10.1.8.0 lies below subnet_min 10.1.9.0; swap them",
        ),
        (
            {"ipv6_network": "fd00::/125"},
            "ipv6_network: fd00::/125 is too small to be divided; use /124 or a shorter prefix",
        ),
        (
            {"ipv6_network": "fd00::/48", "ipv6_subnet_len": "49"},
            "ipv6_subnet_len: 49 does not divide fd00::/48; use 50 to 126",
        ),
        (
            {"ipv6_network": "fd00::/48", "ipv6_subnet_min": "fd00:0:0:7::1"},
            "ipv6_subnet_min: fd00:0:0:7::1 is not the base of a /64; did you mean fd00:0:0:7::?",
        ),
        (
            {"public_ip": "10.1.7.7"},
            "public_ip: 10.1.7.7 lies inside the overlay's own network 10.1.0.0/16; use an underlay address",
        ),
        (
            {"ipv6_network": "fd00::/48", "public_ipv6": "fd00::7"},
            "public_ipv6: fd00::7 lies inside the overlay's own network fd00::/48; use an underlay address",
        ),
        ({"ipv6_network": "fd00::/48", "mtu": "1279"}, "mtu: 1279 is too small for IPv6; use 1280 or more"),
    ],
)
def test_network_rules(raw: dict[str, str], text: str) -> None:
    assert problems({**BASE, **raw}) == [text]


def test_both_networks_mistakes_are_told() -> None:
    assert problems({"network": "10.1.0.0/29", "ipv6_network": "fd00::/125"}) == [
        "network: 10.1.0.0/29 is too small to be divided; use /28 or a shorter prefix",
        "ipv6_network: fd00::/125 is too small to be divided; use /124 or a shorter prefix",
    ]


def test_mtu_below_that_of_ipv6_is_no_matter_to_ipv4() -> None:
    assert accepted({**BASE, "mtu": "576"}).mtu == 576
    assert accepted({**DUAL, "mtu": "1280"}).mtu == 1280


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            {"subnet": "10.2.1.0/24"},
            ".subnet: 10.2.1.0/24 lies outside the network 10.1.0.0/16; choose a /24 inside it",
        ),
        ({"subnet": "10.1.9.0/25"}, ".subnet: 10.1.9.0/25 has prefix length 25; the network's subnet_len is 24"),
        ({"subnet": "10.1.0.0/24"}, ".subnet: 10.1.0.0/24 lies outside subnet_min 10.1.1.0 to subnet_max 10.1.255.0"),
        (
            {"subnet": "10.1.1.0/24"},
            ".subnet: 10.1.1.0/24 overlaps leases[0] (10.1.1.0/24); each host needs a subnet of its own",
        ),
        ({"ipv6_subnet": "fd00::/64"}, ".ipv6_subnet: fd00::/64 lies in no network; set ipv6_network"),
        ({"subnet": ""}, ": has no subnet; add `subnet:` or `ipv6_subnet:`"),
        ({"public_ip": ""}, ": has no underlay address; add `public_ip:` or `public_ipv6:`"),
        (
            {"public_ip": "192.168.0.1"},
            ".public_ip: 192.168.0.1 is also that of leases[0]; each host needs its own",
        ),
        (
            {"public_ip": "10.1.2.1"},
            ".public_ip: 10.1.2.1 lies inside the overlay's own network 10.1.0.0/16; use an underlay address",
        ),
        (
            {"vtep_mac": "06-00-00-00-00-0A"},
            ".vtep_mac: 06:00:00:00:00:0a is also that of leases[0]; each host needs its own",
        ),
    ],
)
def test_lease_rules(entry: dict[str, str], text: str) -> None:
    first = {**ALPHA, "vtep_mac": "06:00:00:00:00:0a"}
    assert problems(with_leases(first, {**BETA, **entry})) == [f"leases[1]{text}"]


def test_ipv6_lease_rules() -> None:
    one = {"ipv6_subnet": "fd00:10:0:1::/64", "public_ipv6": "fd77::1"}
    assert problems(with_leases(one, {**one, "subnet": "10.1.1.0/24"}, base=DUAL)) == [
        "leases[1].public_ipv6: fd77::1 is also that of leases[0]; each host needs its own",
        "leases[1].ipv6_subnet: fd00:10:0:1::/64 overlaps leases[0] (fd00:10:0:1::/64);"
        " each host needs a subnet of its own",
    ]
    assert problems(with_leases(ALPHA, base={"ipv6_network": "fd00:10::/48"})) == [
        "leases[0].subnet: 10.1.1.0/24 lies in no network; set network"
    ]


def test_a_wide_subnet_overlaps_and_has_the_wrong_length() -> None:
    assert problems(with_leases(ALPHA, {**BETA, "subnet": "10.1.0.0/20"})) == [
        "leases[1].subnet: 10.1.0.0/20 has prefix length 20; the network's subnet_len is 24",
        "leases[1].subnet: 10.1.0.0/20 overlaps leases[0] (10.1.1.0/24); each host needs a subnet of its own",
    ]


def test_overlaps_far_apart_in_the_table() -> None:
    many = [{"subnet": f"10.1.{n}.0/24", "public_ip": f"192.168.1.{n}"} for n in range(1, 200)]
    again = {"subnet": "10.1.77.0/24", "public_ip": "192.168.2.1"}
    assert problems(with_leases(*many, again)) == [
        "leases[199].subnet: 10.1.77.0/24 overlaps leases[76] (10.1.77.0/24); each host needs a subnet of its own"
    ]


@given(st.sets(st.integers(1, 255), max_size=20), st.booleans())
def test_every_right_lease_table_is_accepted(numbers: set[int], dual: bool) -> None:
    entries = []
    for number in numbers:
        entry = {"subnet": f"10.1.{number}.0/24", "public_ip": f"192.168.0.{number}"}
        if dual:
            entry |= {"ipv6_subnet": f"fd00:10:0:{number:x}::/64", "public_ipv6": f"fd77::{number:x}"}
        entries.append(entry)
    found = accepted(with_leases(*entries, base=DUAL))
    assert {entry.subnet for entry in found.leases} == {ip_network(f"10.1.{number}.0/24") for number in numbers}


# --- whatever is written ----------------------------------------------------------------------------------------------

KEYS = (*SETTINGS.fields, *LeaseEntry.fields, "port", "vni", "engine", "learning")
values = st.recursive(
    st.one_of(
        st.none(),
        st.text(max_size=20),
        st.sampled_from(["10.1.0.0/16", "10.1.1.0/24", "192.168.0.1", "fd00::/48", "fd00::%1/48", "::ffff:1.2.3.4"]),
        st.sampled_from(["true", "24", "1400", "udp", "null"]),
        st.from_regex(r"[0-9.:/a-f%]{1,18}", fullmatch=True),
        st.integers().map(str),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=400)
@given(st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), values, max_size=6))
@example({"leases": [{"subnet": "10.1.1.0/24"}, [[]], {"": {"": []}}], "": ""})
@example({"network": "0.0.0.0/0", "ipv6_network": "::/0", "ipv6_subnet_len": "2", "ipv6_subnet_max": "::1"})
def test_anything_is_settings_or_problems(raw: dict[str, Any]) -> None:
    found = validate(raw, SETTINGS)
    if isinstance(found, Settings):
        assert found.ranges()
        return
    assert found
    for problem in found:
        assert isinstance(problem, Problem)
        assert problem.text
        assert str(problem).startswith(f"{dotted(problem.path)}: ")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("leases", 2, "subnet"), "leases[2].subnet"),
        (("network",), "network"),
        (("udp", "port"), "udp.port"),
        (("leases", 0), "leases[0]"),
    ],
)
def test_dotted(path: tuple[str | int, ...], text: str) -> None:
    assert dotted(path) == text


# --- flags and variables ----------------------------------------------------------------------------------------------


def by_path() -> dict[tuple[str, ...], Option]:
    return {option.path: option for option in options(SETTINGS)}


def test_names() -> None:
    port = by_path()["vxlan", "port"]
    assert (port.flag, port.variable) == ("--vxlan-port", "OVERLAYD_VXLAN_PORT")
    assert (port.default, port.boolean) == (8472, False)
    direct = by_path()["vxlan", "direct_routing"]
    assert (direct.flag, direct.variable) == ("--vxlan-direct-routing", "OVERLAYD_VXLAN_DIRECT_ROUTING")
    assert (direct.default, direct.boolean) == (False, True)


def test_flannels_flags_exist() -> None:
    assert {option.flag for option in options(SETTINGS)} >= {
        "--iface",
        "--iface-regex",
        "--iface-can-reach",
        "--public-ip",
        "--public-ipv6",
        "--subnet-file",
        "--ip-masq",
        "--healthz-ip",
        "--healthz-port",
    }


def test_every_setting_but_the_lease_table_is_an_option_once() -> None:
    paths = [option.path for option in options(SETTINGS)]
    sections = {"udp", "vxlan", "wireguard"}
    assert {path[0] for path in paths} == set(SETTINGS.fields) - {"leases"}
    assert {path for path in paths if path[0] in sections} == {
        (section, key) for section in sections for key in type(SETTINGS.fields[section].default).fields
    }
    for names in (
        paths,
        [option.flag for option in options(SETTINGS)],
        [option.variable for option in options(SETTINGS)],
    ):
        assert len(names) == len(set(names))


def test_every_option_is_described() -> None:
    assert [option.flag for option in options(SETTINGS) if not option.description] == []


def test_switches_are_those_with_a_boolean_default() -> None:
    assert [o.flag for o in options(SETTINGS) if o.boolean] == [
        o.flag for o in options(SETTINGS) if isinstance(o.default, bool)
    ]


def test_a_default_given_as_text_is_the_default() -> None:
    """What help shows may be written as it stands."""
    for option in options(SETTINGS):
        if option.default is None:
            continue
        text = str(option.default).lower() if option.boolean else str(option.default)
        raw: Any = text
        for key in reversed(option.path):
            raw = {key: raw}
        assert accepted({**BASE, **raw}) == accepted(BASE), option.flag


@pytest.mark.parametrize(("mode", "port"), [("udp", "8285"), ("vxlan", "8472")])
def test_probes_have_a_port_of_their_own(mode: str, port: str) -> None:
    given = {**BASE, "mode": mode, "probe": {"port": port}}
    assert problems(given) == [f"probe.port: {port} is mode {mode}'s port; give probes their own"]
    assert isinstance(validate({**given, "mode": "host-gw"}, SETTINGS), Settings)


@pytest.mark.parametrize(("port", "announced"), [("8286", 8286), ("9000", 9000), ("0", None)])
def test_every_host_of_a_static_table_answers_probes(port: str, announced: int | None) -> None:
    found = validate(
        {**with_leases({"subnet": "10.1.1.0/24", "public_ip": "192.0.2.1"}), "probe": {"port": port}}, SETTINGS
    )
    assert isinstance(found, Settings)
    assert [one.probe_port for one in StaticRegistry().leases(found)] == [announced]


def test_modes_are_flannels() -> None:
    assert set(SETTINGS.modes) == {"udp", "vxlan", "host-gw", "wireguard"}


# --- etcd -------------------------------------------------------------------------------------------------------------

ETCD = {"registry": "etcd"}


def with_etcd(**settings: Any) -> dict[str, Any]:
    return {**ETCD, "etcd": settings}


def test_with_etcd_the_network_comes_from_there() -> None:
    found = validate(ETCD, SETTINGS)
    assert isinstance(found, Settings)
    assert found.ranges() == ()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            with_etcd(endpoints="192.0.2.1"),
            ["etcd.endpoints: 192.0.2.1 is not a list of URLs like http://192.0.2.1:2379,http://192.0.2.2:2379"],
        ),
        (
            with_etcd(endpoints="http://192.0.2.1:2379,https://192.0.2.2:2379"),
            ["etcd.endpoints: http://192.0.2.1:2379,https://192.0.2.2:2379 mixes http and https; use"],
        ),
        (
            with_etcd(endpoints=["http://192.0.2.1:99999"]),
            ["etcd.endpoints: is not a list of URLs like http://192.0.2.1:2379,http://192.0.2.2:2379"],
        ),
        (with_etcd(endpoints={"a": "b"}), ["etcd.endpoints: takes a list of URLs, or URLs separated by commas"]),
        (with_etcd(prefix="net"), ["etcd.prefix: net is not a valid key prefix; write it like /coreos.com/network"]),
        (with_etcd(username="a"), ["etcd.password: is missing beside username"]),
        (with_etcd(password="a"), ["etcd.username: is missing beside password"]),
        (
            with_etcd(endpoints="https://a:1", certfile="c"),
            ["etcd.keyfile: is missing beside certfile"],
        ),
        (with_etcd(cafile="ca.pem"), ["etcd.cafile: ca.pem needs https endpoints"]),
        (
            {**ETCD, "leases": [ALPHA]},
            ["leases: belongs to registry: static; with registry: etcd every host acquires its lease there"],
        ),
        (
            {**ETCD, "subnet_lease_ttl": "90s", "subnet_lease_renew_margin": "2"},
            ["subnet_lease_renew_margin: 2m is not less than subnet_lease_ttl 90s; a lease is renewed before it ends"],
        ),
        (
            {**ETCD, "subnet_lease_ttl": "soon"},
            ["subnet_lease_ttl: soon is not a valid duration; write 24h, 60m or 90s (a bare number"],
        ),
        ({**ETCD, "subnet_lease_ttl": "1s"}, ["subnet_lease_ttl: 1s is out of range; use 5s to 720h"]),
    ],
)
def test_what_cannot_be_with_etcd(raw: dict[str, Any], expected: list[str]) -> None:
    found = problems(raw)
    assert len(found) == len(expected)
    for one, beginning in zip(found, expected, strict=True):
        assert one.startswith(beginning)


@pytest.mark.parametrize(
    ("endpoints", "extra", "urls"),
    [
        ("a:1,b:2", {}, ("http://a:1", "http://b:2")),
        ("a:1,b:2", {"cafile": "ca.pem"}, ("https://a:1", "https://b:2")),
        ("a:1", {"certfile": "c", "keyfile": "k"}, ("https://a:1",)),
        ("a:1,https://b:2", {}, ("https://a:1", "https://b:2")),
        ("[fd00::1]:2379", {}, ("http://[fd00::1]:2379",)),
    ],
)
def test_endpoints_without_a_scheme(endpoints: str, extra: dict[str, str], urls: tuple[str, ...]) -> None:
    found = validate(with_etcd(endpoints=endpoints, **extra), SETTINGS)
    assert isinstance(found, Settings)
    assert found.etcd.urls == urls


def test_endpoints_may_be_a_list_or_text() -> None:
    for endpoints in ("http://a:1/, http://b:2,http://a:1", ["http://a:1", "http://b:2/"]):
        found = validate(with_etcd(endpoints=endpoints), SETTINGS)
        assert isinstance(found, Settings)
        assert found.etcd.urls == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(
    ("text", "seconds", "shown"), [("24h", 86400, "24h"), ("60", 3600, "1h"), ("90s", 90, "90s"), ("5m", 300, "5m")]
)
def test_times(text: str, seconds: int, shown: str) -> None:
    """A bare number is in minutes, as flannel's --subnet-lease-renew-margin has it."""
    found = validate({**ETCD, "subnet_lease_renew_margin": text, "subnet_lease_ttl": "48h"}, SETTINGS)
    assert isinstance(found, Settings)
    assert (found.subnet_lease_renew_margin, str(found.subnet_lease_renew_margin)) == (seconds, shown)


def test_no_secret_is_in_a_problem_or_in_the_text_of_settings() -> None:
    """flannel logs etcd's password in clear."""
    secret = "s3cret-word"
    found = validate(with_etcd(username="a", password=secret), SETTINGS)
    assert isinstance(found, Settings)
    assert secret not in f"{found} {found!r} {found.etcd} {found.values()}"
    wrong = (
        with_etcd(password=secret),
        with_etcd(username="a", password=[secret]),
        with_etcd(username="a", password={"x": secret}),
        with_etcd(endpoints=f"http://a:{secret}@b:2379"),
    )
    for raw in wrong:
        assert not [problem for problem in problems(raw) if secret in problem]
