"""A longest-prefix-match table: what a route look-up is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from overlayd.core.address import Network

T = TypeVar("T")


class PrefixTable(Generic[T]):
    """An immutable map from networks of both families to values, looked up by the longest matching prefix.

    One dictionary per prefix length in use, longest first: a look-up costs as many probes as there are
    lengths (one, in an overlay whose subnets are of one size), however many networks there are.
    """

    __slots__ = ("_levels", "_size")

    def __init__(self, entries: Iterable[tuple[Network, T]] = ()) -> None:
        """Raises ValueError when two entries name the same network."""
        levels: dict[int, dict[int, dict[int, T]]] = {4: {}, 6: {}}
        size = 0
        for network, value in entries:
            shift = network.max_prefixlen - network.prefixlen
            level = levels[network.version].setdefault(shift, {})
            prefix = int(network.network_address) >> shift
            if prefix in level:
                raise ValueError(f"{network} is in the table twice")
            level[prefix] = value
            size += 1
        self._levels = {version: sorted(by_shift.items()) for version, by_shift in levels.items()}
        self._size = size

    def changed(self, gone: Iterable[Network], come: Iterable[tuple[Network, T]]) -> PrefixTable[T]:
        """A table without `gone` and with `come`; costs a plain copy and what changes.

        Raises KeyError where a network that is to go is not there, ValueError where one that is to come is.
        """
        levels = {version: {shift: dict(level) for shift, level in some} for version, some in self._levels.items()}
        size = self._size
        for network in gone:
            shift = network.max_prefixlen - network.prefixlen
            del levels[network.version][shift][int(network.network_address) >> shift]
            size -= 1
        for network, value in come:
            shift = network.max_prefixlen - network.prefixlen
            level = levels[network.version].setdefault(shift, {})
            prefix = int(network.network_address) >> shift
            if prefix in level:
                raise ValueError(f"{network} is in the table twice")
            level[prefix] = value
            size += 1
        table: PrefixTable[T] = PrefixTable()
        table._levels = {
            version: sorted((shift, level) for shift, level in by_shift.items() if level)
            for version, by_shift in levels.items()
        }
        table._size = size
        return table

    def lookup(self, version: int, address: int) -> T | None:
        """The value of the longest prefix that holds `address` (an integer of family `version`), or None."""
        for shift, level in self._levels[version]:
            value = level.get(address >> shift)
            if value is not None:
                return value
        return None

    def levels(self) -> Iterator[tuple[int, int, list[tuple[int, T]]]]:
        """(family, prefix length, [(first address, value)]) for each length in use, the longest first."""
        for version, levels in self._levels.items():
            for shift, level in levels:
                length = (32 if version == 4 else 128) - shift
                yield version, length, [(prefix << shift, value) for prefix, value in level.items()]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        for levels in self._levels.values():
            for _, level in levels:
                yield from level.values()
