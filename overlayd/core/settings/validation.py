"""Strict validation, before anything on the host is touched: every mistake becomes one `Problem`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from overlayd.core import mtu
from overlayd.core.address import Address, Network, overlap
from overlayd.core.leases.subnets import SubnetRange, SubnetRuleError
from overlayd.core.settings.model import RANGES, LeaseEntry, Settings
from overlayd.core.settings.problem import Path, Problem, SectionError


def without_empty(raw: Any) -> Any:
    """The raw mapping without keys whose value is empty or null: `subnet_min:` sets nothing."""
    if isinstance(raw, Mapping):
        return {key: without_empty(value) for key, value in raw.items() if not _is_empty(value)}
    if isinstance(raw, list):
        return [without_empty(value) for value in raw]
    return raw


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip() in ("", "null", "~"))


def validate(raw: Mapping[str, Any], model: type[Settings]) -> Settings | list[Problem]:
    """The settings that the raw nested text describes, or every mistake in it; never both, never an exception.

    `model`: the settings that there are (`settings_model`).
    """
    raw = without_empty(raw)
    if isinstance(raw.get("leases", []), str):
        return [Problem(("leases",), str(raw["leases"]), "is not a list; write one `- subnet: ...` for each host")]
    try:
        settings = model.parse(raw)
    except SectionError as error:
        return [_without_secret(one) for one in error.problems]
    return cross_check(settings) or settings


def _without_secret(problem: Problem) -> Problem:
    name = problem.path[-1]
    is_secret = name in ("password", "psk") or (name == "endpoints" and "@" in problem.value)
    return problem._replace(value="") if is_secret else problem


def cross_check(settings: Settings) -> list[Problem]:
    """Contradictions between values that are each valid on their own."""
    problems: list[Problem] = []
    ranges: dict[int, SubnetRange] = {}
    for prefix, make in RANGES:
        try:
            found = make(settings)
        except SubnetRuleError as error:
            key = prefix + error.field
            value = getattr(settings, key)
            problems.append(Problem((key,), "" if value is None else str(value), str(error)))
            continue
        if found is not None:
            ranges[found.network.version] = found
    if problems:
        return problems
    if settings.registry == "etcd":
        problems += _check_etcd(settings)
    elif not ranges:
        return [Problem(("network",), "", "is missing; give a network such as 10.1.0.0/16 (or an ipv6_network)")]
    own, probes = settings.spec.lease_fields(settings.section), settings.probe.port
    if probes in (own.get("port"), own.get("port_v6")):
        problems.append(
            Problem(("probe", "port"), str(probes), f"is mode {settings.mode}'s port; give probes their own")
        )
    for key in ("public_ip", "public_ipv6"):
        problems += _not_in_overlay((key,), getattr(settings, key), ranges)
    if settings.mtu is not None and 6 in ranges and settings.mtu < mtu.MINIMUM[6]:
        problems.append(Problem(("mtu",), str(settings.mtu), f"is too small for IPv6; use {mtu.MINIMUM[6]} or more"))
    return problems if settings.registry == "etcd" else [*problems, *_check_leases(settings, ranges)]


def _check_etcd(settings: Settings) -> Iterator[Problem]:
    etcd = settings.etcd
    if settings.leases:
        yield Problem(
            ("leases",), "", "belongs to registry: static; with registry: etcd every host acquires its lease there"
        )
    pairs = (("certfile", "keyfile"), ("keyfile", "certfile"), ("username", "password"), ("password", "username"))
    for one, other in pairs:
        if getattr(etcd, one) is not None and getattr(etcd, other) is None:
            yield Problem(("etcd", other), "", f"is missing beside {one}")
    for key in ("cafile", "certfile"):
        if getattr(etcd, key) is not None and etcd.endpoints.startswith("http:"):
            yield Problem(("etcd", key), str(getattr(etcd, key)), "needs https endpoints")
    ttl, margin = settings.subnet_lease_ttl, settings.subnet_lease_renew_margin
    if margin >= ttl:
        text = f"is not less than subnet_lease_ttl {ttl}; a lease is renewed before it ends"
        yield Problem(("subnet_lease_renew_margin",), str(margin), text)


def _not_in_overlay(path: Path, public: Address | None, ranges: Mapping[int, SubnetRange]) -> list[Problem]:
    if public is None or public.version not in ranges or public not in ranges[public.version].network:
        return []
    network = ranges[public.version].network
    return [Problem(path, str(public), f"lies inside the overlay's own network {network}; use an underlay address")]


def _check_leases(settings: Settings, ranges: Mapping[int, SubnetRange]) -> Iterator[Problem]:
    for index, entry in enumerate(settings.leases):
        yield from _check_row(("leases", index), entry, ranges)
    yield from _shared_values(settings.leases)
    yield from _overlaps(settings.leases)


def _check_row(at: Path, entry: LeaseEntry, ranges: Mapping[int, SubnetRange]) -> Iterator[Problem]:
    for key, subnet in _subnets(entry):
        if subnet.version not in ranges:
            needed = "network" if subnet.version == 4 else "ipv6_network"
            yield Problem((*at, key), str(subnet), f"lies in no network; set {needed}")
        elif wrong := ranges[subnet.version].check(subnet):
            yield Problem((*at, key), str(subnet), wrong)
    if entry.subnet is None and entry.ipv6_subnet is None:
        yield Problem(at, "", "has no subnet; add `subnet:` or `ipv6_subnet:`")
    if entry.public_ip is None and entry.public_ipv6 is None:
        yield Problem(at, "", "has no underlay address; add `public_ip:` or `public_ipv6:`")
    yield from _not_in_overlay((*at, "public_ip"), entry.public_ip, ranges)
    yield from _not_in_overlay((*at, "public_ipv6"), entry.public_ipv6, ranges)


def _shared_values(leases: Sequence[LeaseEntry]) -> Iterator[Problem]:
    """Addresses, MACs and keys that two rows share."""
    seen: dict[tuple[str, object], int] = {}
    for index, entry in enumerate(leases):
        for key in ("public_ip", "public_ipv6", "vtep_mac", "public_key"):
            value = getattr(entry, key)
            other = seen.setdefault((key, value), index)
            if value is not None and other != index:
                text = f"is also that of leases[{other}]; each host needs its own"
                yield Problem(("leases", index, key), str(value), text)


def _overlaps(leases: Sequence[LeaseEntry]) -> Iterator[Problem]:
    """Subnets that share addresses; in order of their first address, only neighbours can."""
    rows = [(subnet, index, key) for index, entry in enumerate(leases) for key, subnet in _subnets(entry)]
    rows.sort(key=lambda row: (row[0].version, int(row[0][0]), row[0].prefixlen))
    for one, other in pairwise(rows):
        if overlap(one[0], other[0]):
            first, second = sorted((one, other), key=lambda row: row[1])
            text = f"overlaps leases[{first[1]}] ({first[0]}); each host needs a subnet of its own"
            yield Problem(("leases", second[1], second[2]), str(second[0]), text)


def _subnets(entry: LeaseEntry) -> Iterator[tuple[str, Network]]:
    if entry.subnet is not None:
        yield "subnet", entry.subnet
    if entry.ipv6_subnet is not None:
        yield "ipv6_subnet", entry.ipv6_subnet
