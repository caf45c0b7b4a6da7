"""What the network's configuration decides, and what a host may say for itself."""

from __future__ import annotations

from typing import Any

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.core.settings.model import Settings
from overlayd.core.settings.validation import validate
from overlayd.registry.base import RegistryError
from overlayd.registry.etcd.config import merge

CONFIG = '{"Network":"10.5.0.0/16","SubnetLen":26,"Backend":{"Type":"vxlan","VNI":7,"MTU":1400}}'


def here(**raw: Any) -> Settings:
    found = validate({"registry": "etcd", **raw}, SETTINGS)
    assert isinstance(found, Settings), found
    return found


def test_a_host_that_says_nothing_gets_it_all_from_etcd() -> None:
    merged = merge(here(), CONFIG, "/net/config")
    assert (str(merged.network), merged.subnet_len, merged.mode, merged.mtu) == ("10.5.0.0/16", 26, "vxlan", 1400)
    assert (merged.vxlan.vni, merged.vxlan.port, merged.registry) == (7, 8472, "etcd")


def test_mode_mtu_ports_and_vni_may_be_a_hosts_own() -> None:
    own = here(mode="udp", mtu="1300", vxlan={"vni": "9"}, udp={"port": "9000", "engine": "python"})
    merged = merge(own, CONFIG, "/net/config")
    assert (merged.mode, merged.mtu, merged.vxlan.vni) == ("udp", 1300, 9)
    assert (merged.udp.port, merged.udp.engine) == (9000, "python")


def test_the_engine_is_a_hosts_own_and_the_port_the_networks() -> None:
    merged = merge(here(udp={"engine": "python"}), '{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":99}}', "c")
    assert (merged.udp.port, merged.udp.engine) == (99, "python")


def test_the_same_network_may_be_said_again() -> None:
    assert str(merge(here(network="10.5.0.0/16"), CONFIG, "/net/config").network) == "10.5.0.0/16"


@pytest.mark.parametrize(
    ("raw", "config", "text"),
    [
        (
            {"network": "10.6.0.0/16"},
            CONFIG,
            "network: 10.6.0.0/16 is set on this host, but /net/config in etcd has 10.5.0.0/16; leave it out here",
        ),
        (
            {"ipv6_network": "fc00::/48"},
            CONFIG,
            "ipv6_network: fc00::/48 is set on this host, but /net/config in etcd does not set it; leave it out here",
        ),
        ({}, '{"Network":"10.5.0.0/33"}', "/net/config: Network: 10.5.0.0/33 is not"),
        ({}, "", "/net/config: : is not JSON"),
        ({"public_ip": "10.5.1.1"}, CONFIG, "public_ip: 10.5.1.1 lies inside the overlay's own network 10.5.0.0/16"),
    ],
)
def test_what_cannot_be(raw: dict[str, str], config: str, text: str) -> None:
    with pytest.raises(RegistryError) as error:
        merge(here(**raw), config, "/net/config")
    assert str(error.value).startswith(text)
