"""Attachments as data: parsers of what comes from outside, addresses, the table, the state file."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.attach import state, values
from overlayd.core.attach.conflict import conflict
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.ipam import choose, container_mac, gateway
from overlayd.core.attach.model import Attachment, PublishedPort
from overlayd.core.attach.table import AttachmentTable
from overlayd.core.underlay import HostInterface
from support.attached import ONE

V4, V6 = IPv4Network("10.1.1.0/24"), IPv6Network("fd00:10:1:1::/64")


def other(number: int, **fields: Any) -> Attachment:
    """Another attachment, with an address of its own."""
    made = replace(ONE, container=f"c{number}", addresses=(ip_interface(f"10.1.1.{number}/24"),), ports=())
    return replace(made, **fields)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parse", "given", "text"),
    [
        (lambda one: values.name(one, "container"), "-x", "container: '-x' is not a valid name"),
        (lambda one: values.name(one, "container"), "", "container: '' is not a valid name"),
        (lambda one: values.name(one, "container"), "a" * 254, "is not a valid name"),
        (lambda one: values.name(one, "container"), "a\n", r"'a\\n' is not a valid name"),
        (lambda one: values.name(one, "container"), 7, "container: 7 is not a valid name"),
        (values.interface, "a/b", "interface: 'a/b' is not a valid interface name"),
        (values.interface, "..", "is not a valid interface name"),
        (values.interface, "a" * 16, "is not a valid interface name"),
        (values.interface, "é" * 8, "is not a valid interface name"),
        (values.interface, "a b", "is not a valid interface name"),
        (values.interface, None, "is not a valid interface name"),
        (values.address, "10.1.1", "address: '10.1.1' is not an IP address"),
        (values.address, "fe80::1%eth0", "has a zone"),
        (values.address, "::ffff:1.2.3.4", "holds an IPv4 address"),
        (values.address, 5, "is not a text"),
        (values.addresses, ["10.1.1.2", "10.1.1.3"], "are of one family"),
        (values.addresses, "10.1.1.2", "addresses: not a list"),
        (values.prefixed, "10.1.1.2", "is not an IP address with a prefix length"),
        (values.prefixed, "10.1.1.2/33", "is not an IP address with a prefix length"),
        (values.mac, "01:00:5e:00:00:01", "group address"),
        (values.mac, "x" * 1000, "is not a text of 1 to 60"),
        (values.cpus, "3-1", "rps: '3-1' is not a list of CPUs"),
        (values.cpus, "1,,2", "is not a list of CPUs"),
        (values.cpus, "0-99999", "is not a list of CPUs"),
        (values.cpus, "٣", "is not a list of CPUs"),
        (values.cpus, None, "rps: None is not a text"),
        (values.sysctls, {"kernel.shmmax": "1"}, "'kernel.shmmax' is not per network namespace"),
        (values.sysctls, {"net/../kernel/core_pattern": "1"}, "is not per network namespace"),
        (values.sysctls, {"net.ipv4.//.x": "1"}, "is not per network namespace"),
        (values.sysctls, {"net.core.somaxconn": 1}, "sysctl net.core.somaxconn: 1 is not a text"),
        (values.sysctls, {"net.core.somaxconn": "1\n2"}, "is not a text"),
        (values.sysctls, ["net.core.somaxconn"], "sysctls: not an object"),
        (lambda one: values.path(one, "netns"), "run/netns/x", "netns: 'run/netns/x' is not an absolute path"),
        (lambda one: values.path(one, "netns"), "/a\0b", "netns: "),
        (lambda one: values.choice(one, "mode", ("bridge", "routed")), "brige", "did you mean bridge"),
        (lambda one: values.choice(one, "mode", ("bridge", "routed")), ["bridge"], "is not one of bridge, routed"),
        (lambda one: values.number(one, "port", 1, 9), True, "port: True is not a number from 1 to 9"),
        (lambda one: values.mapping(one, "call", ("a",)), {"b": 1}, "call: unknown key 'b'; known: a"),
        (PublishedPort.of, {"host_port": 65536, "container_port": 1}, "host_port: 65536 is not a number"),
        (PublishedPort.of, {"host_port": 1, "container_port": 0}, "container_port: 0 is not a number"),
        (PublishedPort.of, {"host_port": 1}, "container_port: None is not a number"),
        (PublishedPort.of, {"host_port": 1, "container_port": 2, "protocol": "icmp"}, "protocol: 'icmp' is not"),
    ],
)
def test_what_is_wrong_is_named(parse: Any, given: Any, text: str) -> None:
    with pytest.raises(AttachError, match=text):
        parse(given)


def test_sysctls_are_written_with_dots_or_slashes() -> None:
    assert values.sysctl_path("net.ipv4.ip_forward") == "net/ipv4/ip_forward"
    assert values.sysctl_path("net/ipv4/conf/eth0.5/rp_filter") == "net/ipv4/conf/eth0.5/rp_filter"
    assert values.sysctl_path("net.ipv4.conf.eth0/5.rp_filter") == "net/ipv4/conf/eth0.5/rp_filter"


def test_cpus_and_their_mask() -> None:
    assert values.cpus(" 2, 0-1,1") == "0,1,2"
    assert values.cpus("") == ""
    assert values.cpu_mask("0,1,3") == "0000000b"
    assert values.cpu_mask("0,33") == "00000002,00000001"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(ANYTHING)
def test_whatever_comes_is_a_value_or_an_attach_error(given: Any) -> None:
    parsers = (values.interface, values.address, values.addresses, values.mac, values.sysctls, values.prefixed)
    for parse in (*parsers, Attachment.of, PublishedPort.of, lambda one: values.path(one, "path")):
        try:
            parse(given)
        except AttachError:
            continue


@given(st.sampled_from(sorted(ONE.json())), ANYTHING)
def test_one_damaged_field_is_refused_or_read(field: str, given: Any) -> None:
    try:
        found = Attachment.of({**ONE.json(), field: given})
    except AttachError:
        return
    assert Attachment.of(found.json()) == found


# --- addresses --------------------------------------------------------------------------------------------------------


def test_the_first_container_of_a_subnet_comes_after_the_gateway() -> None:
    assert [str(one) for one in choose((V4, V6), {}, (), {})] == ["10.1.1.2/24", "fd00:10:1:1::2/64"]
    assert str(gateway(V4)) == "10.1.1.1"


def test_an_address_given_back_waits_until_the_search_comes_round() -> None:
    last = {4: ip_address("10.1.1.9")}
    assert choose((V4,), {}, (), last)[0].ip == ip_address("10.1.1.10")  # type: ignore[arg-type]
    assert choose((V4,), {}, (), {4: ip_address("10.1.1.254")})[0].ip == ip_address("10.1.1.2")
    assert choose((V4,), {}, (), {4: ip_address("10.9.9.9")})[0].ip == ip_address("10.1.1.2")


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("10.1.2.5", "address 10.1.2.5 is not in this host's subnet 10.1.1.0/24 and fd00:10:1:1::/64"),
        ("10.1.1.1", "address 10.1.1.1 is the gateway"),
        ("10.1.1.0", "is reserved"),
        ("10.1.1.255", "is reserved"),
        ("fd00:10:1:1::", "is reserved"),
        ("10.1.1.7", "address 10.1.1.7 is taken by c7 eth0"),
    ],
)
def test_a_wanted_address_is_refused_with_the_reason(wanted: str, text: str) -> None:
    with pytest.raises(AttachError, match=text):
        choose((V4, V6), {ip_address("10.1.1.7"): "c7 eth0"}, (ip_address(wanted),), {})


def test_a_wanted_address_is_given_and_the_other_family_chosen() -> None:
    found = choose((V4, V6), {}, (ip_address("fd00:10:1:1::77"),), {})
    assert [str(one) for one in found] == ["10.1.1.2/24", "fd00:10:1:1::77/64"]


SUBNETS = st.sampled_from(["10.1.1.0/24", "10.1.1.0/29", "10.1.1.4/30", "fd00::/64", "fd00::/126", "fd00::8/125"])


@given(SUBNETS, st.data())
def test_every_usable_address_is_given_once_and_then_none(text: str, data: st.DataObject) -> None:
    subnet = ip_network(text)
    reserved = {subnet[0], subnet[1]} | ({subnet[-1]} if subnet.version == 4 else set())
    usable = [subnet[index] for index in range(min(subnet.num_addresses, 256)) if subnet[index] not in reserved]
    taken = dict.fromkeys(data.draw(st.sets(st.sampled_from(usable))), "c eth0")
    last = {subnet.version: data.draw(st.sampled_from(usable))} if data.draw(st.booleans()) else {}
    free = len(usable) - len(taken)
    for _ in range(min(free, 20)):
        (found,) = choose((subnet,), taken, (), last)  # type: ignore[arg-type]
        assert found.ip in subnet
        assert found.ip not in reserved
        assert found.ip not in taken
        assert found.network == subnet
        taken[found.ip], last[subnet.version] = "c eth0", found.ip
    if subnet.num_addresses <= 256 and len(taken) == len(usable):
        with pytest.raises(AttachError, match="is exhausted") as refused:
            choose((subnet,), taken, (), last)  # type: ignore[arg-type]
        assert refused.value.kind == "exhausted"


def test_a_mac_follows_from_the_address() -> None:
    assert container_mac((ip_address("10.1.1.2"), ip_address("fd00::2"))) == "02:6f:0a:01:01:02"
    macs = {container_mac((V6[index],)) for index in range(500)}
    assert len(macs) == 500
    assert all(values.mac(one) == one for one in macs)


# --- the table and the state file -------------------------------------------------------------------------------------


def test_an_address_has_one_holder() -> None:
    table = AttachmentTable([other(2)])
    with pytest.raises(AttachError, match=r"10\.1\.1\.2 is taken by c2 eth0"):
        table.put(replace(other(2), container="c3"))
    assert [one.container for one in table] == ["c2"]
    table.put(replace(other(2), addresses=(ip_interface("10.1.1.8/24"),)))
    assert set(table.taken) == {IPv4Address("10.1.1.8")}
    assert table.remove([("c2", "eth0"), ("c9", "eth0")])
    assert not table.taken
    assert table.last[4] == IPv4Address("10.1.1.8")


@given(st.lists(st.tuples(st.sampled_from(["attach", "detach"]), st.integers(2, 12)), max_size=60))
def test_the_table_agrees_with_a_model(steps: list[tuple[str, int]]) -> None:
    subnet, table, model = IPv4Network("10.1.1.0/29"), AttachmentTable(), dict[str, str]()
    for step, number in steps:
        key = (f"c{number}", "eth0")
        if step == "detach":
            assert bool(table.remove([key])) == (model.pop(key[0], None) is not None)
        elif key not in table:
            try:
                (found,) = choose((subnet,), table.taken, (), table.last)
            except AttachError:
                assert len(model) == 5
                continue
            table.put(replace(ONE, container=key[0], addresses=(found,), ports=()))
            model[key[0]] = str(found.ip)
        assert {one.container: str(one.addresses[0].ip) for one in table} == model
        assert sorted(map(str, table.taken)) == sorted(model.values())
        assert len(set(model.values())) == len(model)
        assert list(state.load(state.dump("b", table), "b")) == list(table)


def test_host_ends_have_names_of_their_own() -> None:
    names = {replace(ONE, container=c, interface=i).device for c in ("a", "a b", "b") for i in ("b", "eth0", "x")}
    assert len(names) == 9
    assert all(len(one) == 15 for one in names)


def test_the_state_of_this_boot_is_read_back() -> None:
    text = state.dump("boot-1", AttachmentTable([ONE, other(3)]))
    assert list(state.load(text, "boot-1")) == [ONE, other(3)]


def test_the_state_of_another_boot_holds_nothing() -> None:
    assert list(state.load(state.dump("boot-1", AttachmentTable([ONE])), "boot-2")) == []


def test_what_was_not_finished_is_forgotten() -> None:
    assert list(state.load(state.dump("b", AttachmentTable([replace(ONE, ready=False), other(3)])), "b")) == [other(3)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "state: not an object"),
        ('{"version":2}', "version: 2 is not 1"),
        ('{"version":1,"boot_id":"b","attachments":{}}', "attachments: not a list"),
        (json.dumps({"version": 1, "boot_id": "b", "attachments": [ONE.json()] * 2}), "c1 eth0: is there twice"),
    ],
)
def test_a_file_that_is_not_a_state_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(AttachError, match=wrong):
        state.load(text, "b")


# --- others' bridges --------------------------------------------------------------------------------------------------


def test_another_bridge_on_the_subnet_is_named_with_a_remedy() -> None:
    def interface(name: str, address: str, *, ours: bool = False) -> HostInterface:
        return HostInterface(name, 3, 1500, True, False, ours, (ip_interface(address),))

    subnets = (V4, V6)
    assert conflict([interface("eth0", "192.0.2.1/24"), interface("ovlbr0", "10.1.1.1/24", ours=True)], subnets) is None
    text = conflict([interface("docker0", "10.1.1.1/24")], subnets)
    assert text is not None
    assert "docker0 has 10.1.1.1/24" in text
    assert "docker-opts" in text
    text = conflict([interface("br0", "fd00:10:1:1::1/64")], subnets)
    assert text is not None
    assert "remove it (ip link delete br0)" in text
