from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.wire.mac import derive_mac, parse_mac

NO_MAC = "is not a MAC address; write six octets like 06:47:0f:9c:01:2a"
GROUP = "is a group address; a VTEP needs a unicast one (an even first octet)"


@pytest.mark.parametrize(
    "text", ["06:47:0f:9c:01:2a", "06:47:0F:9C:01:2A", "06-47-0f-9c-01-2a", " 06:47:0f:9c:01:2a\n"]
)
def test_every_spelling_has_one_canonical_form(text: str) -> None:
    assert parse_mac(text) == "06:47:0f:9c:01:2a"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", NO_MAC),
        ("06:47:0f:9c:01", NO_MAC),
        ("06:47:0f:9c:01:2a:00", NO_MAC),
        ("06:47:0f:9c:01:2g", NO_MAC),
        ("6:47:f:9c:1:2a", NO_MAC),
        ("0647.0f9c.012a", NO_MAC),
        ("06470f9c012a", NO_MAC),
        ("06:47:0f:9c:01:2a\n06:47:0f:9c:01:2a", NO_MAC),
        ("01:00:5e:00:00:01", GROUP),
        ("ff:ff:ff:ff:ff:ff", GROUP),
        ("00:00:00:00:00:00", "is the all-zero address; leave it out to have one derived"),
    ],
)
def test_what_is_no_unicast_mac(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        parse_mac(text)


@given(st.text(max_size=40))
def test_derived_mac_is_unicast_local_and_depends_on_the_seed_alone(seed: str) -> None:
    mac = derive_mac(seed)
    assert parse_mac(mac) == mac
    assert int(mac[:2], 16) & 0b11 == 0b10  # locally administered, not a group
    assert derive_mac(seed) == mac


def test_derived_mac_is_the_same_in_every_release() -> None:
    """Hosts of different releases derive one another's MACs: the first six octets of SHA-256, two bits set."""
    assert derive_mac("overlayd vtep 10.1.2.0-24") == "72:37:bc:25:88:b2"
