from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.address import Network
from overlayd.core.prefix_table import PrefixTable


def lookup(table: PrefixTable[str], address: str) -> str | None:
    parsed = ip_address(address)
    return table.lookup(parsed.version, int(parsed))


def networks() -> st.SearchStrategy[Network]:
    """Networks of both families that often nest: all lie in the first 16 bits' few values."""
    v4 = st.builds(
        lambda high, low, length: IPv4Network((high << 24 | low, length), strict=False),
        st.integers(0, 3),
        st.integers(0, 2**24 - 1),
        st.integers(0, 32),
    )
    v6 = st.builds(
        lambda high, low, length: IPv6Network((high << 120 | low, length), strict=False),
        st.integers(0, 3),
        st.integers(0, 2**120 - 1),
        st.integers(0, 128),
    )
    return st.one_of(v4, v6)


def longest_match(entries: dict[Network, int], version: int, address: int) -> int | None:
    """By trying every network."""
    matches = [
        (network.prefixlen, value)
        for network, value in entries.items()
        if network.version == version and int(network[0]) <= address <= int(network[-1])
    ]
    return max(matches)[1] if matches else None


def test_longest_prefix_wins_whatever_the_order() -> None:
    """flannel.md 4: the first match wins there."""
    entries = [
        (ip_network("10.0.0.0/8"), "network"),
        (ip_network("10.1.2.128/25"), "half"),
        (ip_network("10.1.2.0/24"), "subnet"),
        (ip_network("10.1.2.200/32"), "host"),
    ]
    for table in (PrefixTable(entries), PrefixTable(reversed(entries))):
        assert lookup(table, "10.1.2.200") == "host"
        assert lookup(table, "10.1.2.201") == "half"
        assert lookup(table, "10.1.2.127") == "subnet"
        assert lookup(table, "10.1.3.1") == "network"
        assert lookup(table, "11.0.0.0") is None


def test_default_routes_do_not_mix_families() -> None:
    table = PrefixTable([(ip_network("0.0.0.0/0"), "four")])
    assert lookup(table, "255.255.255.255") == "four"
    assert lookup(table, "::1") is None
    assert lookup(PrefixTable([(ip_network("::/0"), "six")]), "0.0.0.1") is None


def test_empty_table() -> None:
    table: PrefixTable[str] = PrefixTable()
    assert (lookup(table, "10.1.2.3"), lookup(table, "::1"), len(table), list(table)) == (None, None, 0, [])


@pytest.mark.parametrize("network", ["10.1.2.0/24", "fd00:1::/64"])
def test_duplicate(network: str) -> None:
    twice = [(ip_network(network), "one"), (ip_network(network), "other")]
    with pytest.raises(ValueError, match=f"^{network} is in the table twice$"):
        PrefixTable(twice)


@given(st.dictionaries(networks(), st.integers(), max_size=20), st.data())
def test_equals_trying_every_network(entries: dict[Network, int], data: st.DataObject) -> None:
    table = PrefixTable(entries.items())
    probes = data.draw(st.lists(networks(), max_size=5)) + list(entries)
    for network in probes:
        for address in (int(network[0]), int(network[-1]), int(network[network.num_addresses // 2])):
            assert table.lookup(network.version, address) == longest_match(entries, network.version, address)


@given(st.dictionaries(networks(), st.integers(), max_size=20))
def test_holds_every_value_once(entries: dict[Network, int]) -> None:
    table = PrefixTable(entries.items())
    assert len(table) == len(entries)
    assert sorted(table) == sorted(entries.values())


TABLES = st.dictionaries(networks(), st.integers(0, 3), max_size=12)


def content(table: PrefixTable[int]) -> list[object]:
    return [(version, length, sorted(entries)) for version, length, entries in table.levels()]


@given(TABLES, TABLES)
def test_a_changed_table_is_as_one_made_anew(old: dict[Network, int], new: dict[Network, int]) -> None:
    before = PrefixTable(old.items())
    gone = [network for network in old if old[network] != new.get(network)]
    changed = before.changed(gone, [(one, value) for one, value in new.items() if value != old.get(one)])
    assert content(changed) == content(PrefixTable(new.items()))
    assert len(changed) == len(new)
    assert content(before) == content(PrefixTable(old.items())), "the old one is as it was"


def test_changes_that_cannot_be() -> None:
    one = ip_network("10.1.0.0/16")
    table = PrefixTable([(one, "a")])
    with pytest.raises(ValueError, match=r"10\.1\.0\.0/16 is in the table twice"):
        table.changed([], [(one, "b")])
    with pytest.raises(KeyError):
        PrefixTable[str]().changed([one], [])
