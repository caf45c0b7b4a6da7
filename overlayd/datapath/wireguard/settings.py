"""The section `wireguard:` of the configuration."""

from __future__ import annotations

from pathlib import Path

from overlayd.core.settings import values
from overlayd.core.settings.section import Section, setting


def _psk(text: str) -> values.Secret:
    return values.Secret(values.key(text))


class WireguardSettings(Section):
    """wireguard mode."""

    port: int = setting(51820, values.port, "UDP port on this host's IPv4 address")
    port_v6: int = setting(51821, values.port, "UDP port on this host's IPv6 address")
    persistent_keepalive: int = setting(
        0,
        values.integer(0, 65535),
        "seconds between packets to each peer that keep a NAT's state alive; 0 sends none",
    )
    psk: values.Secret | None = setting(
        None,
        values.parser(_psk),
        "preshared key of the network in base64, the same on all hosts (a flag shows in `ps`: prefer the file or the"
        " environment)",
    )

    # What this host keeps beside its configuration (`changed` adds it); settings with another key are others.
    public_key: str | None = None
    """This host's, in base64; None before there is one."""
    key_file: Path | None = None
    """Where the private key is."""

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.public_key == getattr(other, "public_key", None)

    def __hash__(self) -> int:
        return super().__hash__()
