"""Which extensions of flannel's format each peer supports: sends hellos, answers them, and sets the native engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from overlayd.core.forward import Change, ForwardingTable, Peer
from overlayd.core.mtu import UDP_OVERHEAD
from overlayd.datapath.contract import Tap, path_mtu
from overlayd.datapath.native import _native as native
from overlayd.datapath.negotiation import PeerCapabilities
from overlayd.wire.hello import Capability, HelloKind, HelloPath, decode

_OWN = Capability.PARTIAL_SUMS | Capability.ECN
_BITS = {"partial_sums": native.PARTIAL_SUMS, "ecn": native.ECN, "tunnel_gso": native.TUNNEL_GSO}


class Capabilities:
    """The announced peers of one engine. Hellos go to no others, and theirs are not answered."""

    def __init__(
        self,
        engine: native.Engine,
        send: Callable[[bytes, Peer], None],
        slots: Mapping[str, int],
        numbers: Mapping[Peer, int],
        now: Callable[[], float],
    ) -> None:
        """`send` sends one datagram to a peer through the engine's socket; `now` is in seconds, from any steady clock.

        `slots` and `numbers`, by Peer.name and by Peer, are the engine's own and always match its table.
        """
        self._engine = engine
        self._send = send
        self._slots = slots
        self._numbers = numbers
        self._now = now
        self._mtu = 0
        self._tap: Tap | None = None
        self._peers: dict[str, Peer] = {}
        """The announced peers, by underlay address."""
        self._negotiated: dict[str, PeerCapabilities] = {}
        self._hosts: dict[str, list[str]] = {}
        self._in_use: dict[str, int] = {}

    def replace_table(self, table: ForwardingTable, change: Change | None) -> None:
        """The peers as they are now; peers that stay keep their capabilities."""
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
                self._negotiated.setdefault(host, PeerCapabilities(self._now))
                self._hosts.setdefault(peer.name, []).append(host)
                names.add(peer.name)
        for host in touched - self._peers.keys():
            self._negotiated.pop(host, None)
        for name in names:
            self._update(name)

    def _forget(self, host: str) -> str:
        peer = self._peers.pop(host)
        self._hosts[peer.name].remove(host)
        return peer.name

    def replace_tap(self, tap: Tap | None) -> None:
        """The TAP that the engine sends superpackets through from now on."""
        self._tap = tap

    def send_hellos(self) -> None:
        """Send a hello to every announced peer on each usable path; called every HELLO_INTERVAL seconds."""
        pays = self._tap is not None and self._tap.pays()
        for peer in self._peers.values():
            self._send_hello(peer, pays)

    def _send_hello(self, peer: Peer, tunnel: bool) -> None:
        negotiated = self._negotiated[peer.host]
        if not (tunnel and negotiated.confirmed(HelloPath.SOCKET) and self._fits(peer)):
            negotiated.invalidate(HelloPath.TUNNEL)
            tunnel = False
        paths = (HelloPath.SOCKET, HelloPath.TUNNEL) if tunnel else (HelloPath.SOCKET,)
        for request in negotiated.requests(paths, _OWN):
            if request.path is HelloPath.TUNNEL:
                self._engine.tunnel(self._numbers[peer], request.encode())
            else:
                self._send(request.encode(), peer)
        self._update(peer.name)

    def receive(self, payload: bytes, peer: Peer) -> None:
        """A datagram that is not an IP packet came from an announced peer's address."""
        hello = decode(payload)
        negotiated = self._negotiated.get(peer.host)
        if hello is None or negotiated is None:
            return
        if hello.kind is HelloKind.REQUEST:
            self._send(hello.reply(_OWN).encode(), peer)
        else:
            negotiated.receive(hello)
            self._update(peer.name)

    def _fits(self, peer: Peer) -> bool:
        """Whether our longest packets fit the path: forwarded packets ignore the path MTU that the sockets learnt."""
        return path_mtu(peer) >= self._mtu + UDP_OVERHEAD[peer.underlay_family]

    def disable_tunnel(self, peer: Peer) -> None:
        """The path to the peer is narrower than its interface: the sockets learn that, the TAP does not."""
        if peer.host in self._negotiated:
            self._negotiated[peer.host].invalidate(HelloPath.TUNNEL)
            self._update(peer.name)

    def _update(self, name: str) -> None:
        """A lease's counters and capabilities are shared by its underlay addresses: all of them must support one."""
        hosts = self._hosts[name]
        bits = sum(_BITS.values()) if hosts else 0
        for negotiated in (self._negotiated[host] for host in hosts):
            if Capability.PARTIAL_SUMS not in negotiated.capabilities:
                bits &= ~(native.PARTIAL_SUMS | native.TUNNEL_GSO)
            if Capability.ECN not in negotiated.capabilities:
                bits &= ~native.ECN
            if not negotiated.confirmed(HelloPath.TUNNEL):
                bits &= ~native.TUNNEL_GSO
        if hosts:
            self._in_use[name] = bits
        else:
            del self._hosts[name], self._in_use[name]
        if name in self._slots:  # a peer that stays without being announced uses flannel's format
            self._engine.set_capabilities(self._slots[name], bits)

    def describe(self) -> dict[str, list[str]]:
        """The capabilities in use with each announced peer, by Peer.name."""
        return {peer: [name for name, bit in _BITS.items() if bits & bit] for peer, bits in self._in_use.items()}
