"""What is known of etcd: every sound key counts, whatever stands beside it, and changes are told once."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.backend.modes import SETTINGS
from overlayd.core.leases.host_record import HostRecord, host_text
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.leases.table import LeaseTable
from overlayd.registry.etcd.messages import Event, KeyValue
from overlayd.registry.etcd.view import View

PREFIX = "/coreos.com/network"
RANGES = (SubnetRange.of(IPv4Network("10.5.0.0/16")),)


def value(public: str) -> str:
    return f'{{"PublicIP":"{public}","PublicIPv6":null}}'


def put(key: str, text: str, revision: int = 1, lease: int = 9) -> Event:
    return Event(PREFIX + key, KeyValue(PREFIX + key, text, lease, revision), revision)


def delete(key: str, revision: int) -> Event:
    return Event(PREFIX + key, None, revision)


def record(subnet: str, node: str = "a", port: int | None = 8472) -> str:
    return host_text(HostRecord(node, "s", subnet, f"host-{node}", port, 8286))


def view(*events: Event) -> View:
    made = View(PREFIX, SETTINGS.modes)
    made.use_ranges(RANGES)
    made.apply(events, 1)
    return made


ONE = put("/subnets/10.5.1.0-24", value("192.0.2.1"))
HOST = put("/overlayd/hosts/192.0.2.1", record("10.5.1.0-24"))


def test_a_lease_and_our_record_of_its_host_in_either_order() -> None:
    for events in ((ONE, HOST), (HOST, ONE)):
        (held,) = view(*events).held.values()
        assert (held.lease.name, held.lease.port, held.lease.reserved) == ("host-a", 8472, False)
        assert held.lease.probe_port == 8286
        assert held.host is not None
        assert held.host.id == "a"


def test_both_at_once_are_one_event() -> None:
    known = View(PREFIX, SETTINGS.modes)
    (lease,) = known.apply([ONE, HOST], 1).values()
    assert lease is not None
    assert lease.name == "host-a"


def test_a_key_without_an_etcd_lease_is_a_reservation() -> None:
    known = view(put("/subnets/10.5.1.0-24", value("192.0.2.1"), lease=0))
    assert known.leases()[0].reserved


def test_a_record_of_another_address_is_not_the_leases() -> None:
    """The lease has passed to somebody who writes no record: flannel."""
    known = view(HOST, put("/subnets/10.5.1.0-24", value("192.0.2.2")))
    assert [(held.lease.name, held.host) for held in known.held.values()] == [("", None)]
    assert known.leases()[0].probe_port is None, "flannel is never probed"


def test_a_record_that_goes_leaves_the_lease() -> None:
    known = view(ONE, HOST)
    (lease,) = known.apply([delete("/overlayd/hosts/192.0.2.1", 2)], 2).values()
    assert lease is not None
    assert lease.name == ""


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (put("/subnets/10.5.2.0-24", "{"), "is not JSON: "),
        (put("/subnets/10.5.2.0-24/x", value("192.0.2.2")), "is not a subnet key"),
        (put("/subnets/", value("192.0.2.2")), "is not a subnet key"),
        (put("/subnets/0.0.0.0-0", value("192.0.2.2")), "is not a subnet key: it names no subnet"),
        (put("/subnets/0.0.0.0-1", value("192.0.2.2")), "0.0.0.0/1 is not part of the network 10.5.0.0/16"),
        (put("/subnets/10.5.0.0-16", value("192.0.2.2")), "10.5.0.0/16 is not part of the network 10.5.0.0/16"),
        (put("/subnets/10.6.2.0-24", value("192.0.2.2")), "10.6.2.0/24 is not part of the network 10.5.0.0/16"),
        (put("/subnets/fc00::-64", value("192.0.2.2")), "fc00::/64 is not part of the network 10.5.0.0/16"),
        (
            put("/subnets/10.5.2.0-24", value("10.5.7.1")),
            "its public IP 10.5.7.1 lies inside the overlay's own network",
        ),
        (put("/overlayd/hosts/x", record("10.5.9.0-24")), "its key is not a valid public IP"),
        (put("/overlayd/hosts/192.0.2.2", "7"), "is not a JSON object"),
    ],
)
def test_a_key_that_makes_no_sense_loses_nobody_elses(event: Event, reason: str) -> None:
    for events in ((ONE, event), (event, ONE)):
        known = view(*events)
        assert [str(lease.subnet) for lease in known.leases()] == ["10.5.1.0/24"]
        assert list(known.invalid) == [event.key]
        assert known.invalid[event.key].startswith(reason)
    known.apply([Event(event.key, None, 2)], 2)
    assert known.invalid == {}


def test_the_subnet_of_a_value_that_makes_no_sense_is_taken_all_the_same() -> None:
    assert view(put("/subnets/10.5.2.0-24", "{")).taken() == {IPv4Network("10.5.2.0/24")}


DUAL_RANGES = (*RANGES, SubnetRange.of(IPv6Network("fc00::/48")))


@pytest.mark.parametrize("first", [True, False])
def test_a_subnet_under_two_keys_is_the_first_keys(first: bool) -> None:
    """Each kernel object, and each entry of a forwarding table, has one owner."""
    alone = put("/subnets/10.5.1.0-24", value("192.0.2.1"))
    dual = put("/subnets/10.5.1.0-24&fc00:0:0:1::-64", value("192.0.2.2"))
    known = View(PREFIX, SETTINGS.modes)
    known.use_ranges(DUAL_RANGES)
    known.apply((alone, dual) if first else (dual, alone), 1)
    assert [str(lease.public_ip) for lease in known.leases()] == ["192.0.2.1"]
    assert known.invalid == {dual.key: "10.5.1.0/24 is leased by the key 10.5.1.0-24 already; delete one of them"}
    changes = known.apply([delete("/subnets/10.5.1.0-24", 2)], 2)
    assert [lease and str(lease.public_ip) for lease in changes.values()] == [None, "192.0.2.2"]
    assert known.invalid == {}
    changes = known.apply([put("/subnets/10.5.1.0-24", value("192.0.2.1"), 3)], 3)
    assert [lease and str(lease.public_ip) for lease in changes.values()] == [None, "192.0.2.1"]


def test_a_value_that_turns_bad_is_a_lease_that_goes() -> None:
    known = view(ONE)
    assert known.apply([put("/subnets/10.5.1.0-24", "{", 2)], 2) == {"10.5.1.0-24": None}


def test_keys_are_judged_again_when_the_network_is_another() -> None:
    known = View(PREFIX, SETTINGS.modes)
    known.load([ONE.kv, put("/subnets/10.6.1.0-24", value("192.0.2.2")).kv], 7)  # type: ignore[list-item]
    assert len(known.held) == 2, "no network is known yet"
    known.use_ranges(RANGES)
    assert [str(lease.subnet) for lease in known.leases()] == ["10.5.1.0/24"]
    known.use_ranges((SubnetRange.of(IPv4Network("10.6.0.0/16")),))
    assert [str(lease.subnet) for lease in known.leases()] == ["10.6.1.0/24"]
    assert known.revision == 7


def test_what_is_older_than_what_is_known_is_passed_over() -> None:
    """This node knows what it wrote before the watch tells of what was there before."""
    known = view(put("/subnets/10.5.1.0-24", value("192.0.2.1"), 5))
    assert known.apply([delete("/subnets/10.5.1.0-24", 3), put("/subnets/10.5.1.0-24", value("192.0.2.9"), 4)], 4) == {}
    assert [str(lease.public_ip) for lease in known.leases()] == ["192.0.2.1"]


KEYS = st.sampled_from(
    [
        "/subnets/10.5.1.0-24",
        "/subnets/10.5.2.0-24",
        "/subnets/10.5.2.0-24&fc00::-64",
        "/subnets/fc00::-64",
        "/subnets/x",
        "/overlayd/hosts/192.0.2.1",
        "/overlayd/hosts/192.0.2.2",
        "/config",
        "/else",
    ]
)
VALUES = st.sampled_from(
    [
        "",
        value("192.0.2.1"),
        value("192.0.2.2"),
        record("10.5.1.0-24"),
        record("10.5.2.0-24", "b"),
        record("10.5.2.0-24"),
    ]
)


@given(st.lists(st.lists(st.tuples(KEYS, VALUES | st.none(), st.sampled_from([0, 9])), max_size=5), max_size=8))
def test_events_lead_to_what_a_fresh_look_finds(batches: list[list[tuple[str, str | None, int]]]) -> None:
    known, table, there = View(PREFIX, SETTINGS.modes), LeaseTable(), {}
    known.use_ranges(DUAL_RANGES)
    for revision, batch in enumerate(batches, 1):
        unique = {key: (text, lease) for key, text, lease in batch}  # etcd changes a key once in a transaction
        events = []
        for key, (text, lease) in unique.items():
            event = delete(key, revision) if text is None else put(key, text, revision, lease)
            events.append(event)
            there[event.key] = event.kv
        table.apply(known.apply(events, revision))
    fresh = View(PREFIX, SETTINGS.modes)
    fresh.use_ranges(DUAL_RANGES)
    fresh.load([kv for kv in there.values() if kv is not None], len(batches))
    assert (known.held, known.invalid, known.keys) == (fresh.held, fresh.invalid, fresh.keys)
    assert set(table) == set(fresh.leases())
    subnets = [subnet for lease in table for subnet in lease.subnets]
    assert len(subnets) == len(set(subnets)), "no subnet has two owners"
