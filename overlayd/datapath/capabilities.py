"""Which peers take more than flannel's way: asks them, answers them, and tells the native engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from overlayd.core.forward import Change, ForwardingTable, Peer
from overlayd.core.mtu import UDP_OVERHEAD
from overlayd.datapath.contract import Tap, path_mtu
from overlayd.datapath.native import _native as native
from overlayd.datapath.negotiation import Acquaintance
from overlayd.wire.hello import Ability, Kind, Path, decode

_ABILITIES = Ability.PARTIAL_SUMS | Ability.ECN
_NAMES = {"partial_sums": native.PARTIAL, "ecn": native.ECN, "tunnel_gso": native.TUNNEL}


class Ways:
    """The announced peers of one engine. Nothing is asked of others, and they are not answered."""

    def __init__(
        self,
        engine: native.Engine,
        send: Callable[[bytes, Peer], None],
        slots: Mapping[str, int],
        numbers: Mapping[Peer, int],
        now: Callable[[], float],
    ) -> None:
        """`send` sends one datagram to a peer by the engine's socket; `now` is in seconds, from any steady clock.

        `slots` and `numbers`, by Peer.name and by Peer, are the engine's own and always as its table is.
        """
        self._engine = engine
        self._send = send
        self._slots = slots
        self._numbers = numbers
        self._now = now
        self._mtu = 0
        self._tap: Tap | None = None
        self._peers: dict[str, Peer] = {}
        """The announced peers that stand for their address."""
        self._known: dict[str, Acquaintance] = {}
        self._hosts: dict[str, list[str]] = {}
        self._bits: dict[str, int] = {}

    def replace_table(self, table: ForwardingTable, change: Change | None) -> None:
        """The peers as they are now; those that stay need not be asked again before they are used."""
        self._mtu = table.mtu
        if change is None:
            touched = self._peers.keys() | table.peers.keys()
        else:
            touched = {peer.host for _, peer in (*change.gone, *change.come)}
        names = {self._forget(host) for host in touched & self._peers.keys()}
        for host in touched & table.peers.keys():
            peer = table.peers[host]
            if peer.announced:
                self._peers[host] = peer
                self._known.setdefault(host, Acquaintance(self._now))
                self._hosts.setdefault(peer.name, []).append(host)
                names.add(peer.name)
        for host in touched - self._peers.keys():
            self._known.pop(host, None)
        for name in names:
            self._set_way(name)

    def _forget(self, host: str) -> str:
        peer = self._peers.pop(host)
        self._hosts[peer.name].remove(host)
        return peer.name

    def replace_tap(self, tap: Tap | None) -> None:
        """What the engine uses for superpackets from now on."""
        self._tap = tap

    def greet(self) -> None:
        """Ask every announced peer, on each path that could be used; called every GREET_EVERY seconds."""
        pays = self._tap is not None and self._tap.pays()
        for peer in self._peers.values():
            self._ask(peer, pays)

    def _ask(self, peer: Peer, tunnel: bool) -> None:
        known = self._known[peer.host]
        if not (tunnel and known.good(Path.SOCKET) and self._wide(peer)):
            known.lost(Path.TUNNEL)
            tunnel = False
        paths = (Path.SOCKET, Path.TUNNEL) if tunnel else (Path.SOCKET,)
        for question in known.questions(paths, _ABILITIES):
            if question.path is Path.TUNNEL:
                self._engine.tunnel(self._numbers[peer], question.encode())
            else:
                self._send(question.encode(), peer)
        self._set_way(peer.name)

    def heard(self, payload: bytes, peer: Peer) -> None:
        """Something that is no packet came from an announced peer's address."""
        greeting = decode(payload)
        known = self._known.get(peer.host)
        if greeting is None or known is None:
            return
        if greeting.kind is Kind.QUESTION:
            self._send(greeting.answer(_ABILITIES).encode(), peer)
        else:
            known.heard(greeting)
            self._set_way(peer.name)

    def _wide(self, peer: Peer) -> bool:
        """Whether the path takes our longest packets: what is forwarded does not see what the path told the sockets."""
        return path_mtu(peer) >= self._mtu + UDP_OVERHEAD[peer.underlay_family]

    def lose_tunnel(self, peer: Peer) -> None:
        """The path to the peer turned out narrower than its interface: the sockets learn that, the TAP does not."""
        if peer.host in self._known:
            self._known[peer.host].lost(Path.TUNNEL)
            self._set_way(peer.name)

    def _set_way(self, name: str) -> None:
        """A lease's counters and ways are one for both of its underlay addresses: what one cannot, neither does."""
        hosts = self._hosts[name]
        way = sum(_NAMES.values()) if hosts else 0
        for known in (self._known[host] for host in hosts):
            if Ability.PARTIAL_SUMS not in known.abilities:
                way &= ~(native.PARTIAL | native.TUNNEL)
            if Ability.ECN not in known.abilities:
                way &= ~native.ECN
            if not known.good(Path.TUNNEL):
                way &= ~native.TUNNEL
        if hosts:
            self._bits[name] = way
        else:
            del self._hosts[name], self._bits[name]
        if name in self._slots:  # what stays without hosts is one that takes flannel's way
            self._engine.set_way(self._slots[name], way)

    def describe(self) -> dict[str, list[str]]:
        """What is open to each announced peer, by Peer.name."""
        return {peer: [name for name, bit in _NAMES.items() if way & bit] for peer, way in self._bits.items()}
