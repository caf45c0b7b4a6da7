from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overlayd.wire.checksum import internet_checksum
from support.packets import rfc1071


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff\xff")
@example(b"\xff\xfe\x00\x01")
def test_equals_the_loop_of_rfc_1071(data: bytes) -> None:
    assert internet_checksum(data) == rfc1071(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xFFFF),
        (bytes(1), 0xFFFF),
        (bytes(64), 0xFFFF),
        (b"\xff\xff" * 700, 0),
        (b"\x01", 0xFEFF),  # an odd last byte is the high one of its word
        (bytes.fromhex("0001f203f4f5f6f7"), 0x220D),  # RFC 1071 section 3: sum ddf2
        (bytes.fromhex("4500003c1c4640004006 0000 ac100a63ac100a0c"), 0xB1E6),
    ],
)
def test_known_sums(data: bytes, expected: int) -> None:
    assert internet_checksum(data) == expected


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_message_that_holds_its_checksum_sums_to_zero(before: bytes, after: bytes) -> None:
    before += bytes(len(before) % 2)  # a checksum field lies on a word boundary
    if not any(before + after):
        return  # one's complement has two zeros: a message of nothing but zeros keeps 0xffff
    checksum = internet_checksum(before + bytes(2) + after)
    assert internet_checksum(before + checksum.to_bytes(2, "big") + after) == 0
