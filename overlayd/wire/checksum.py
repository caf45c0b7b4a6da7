"""The Internet checksum (RFC 1071)."""


def internet_checksum(data: bytes) -> int:
    """The complemented one's-complement sum of `data`, 0 to 0xffff; an odd last byte is padded with 0.

    A message whose checksum field is already right sums to 0.
    """
    if len(data) % 2:
        data += b"\0"
    # 2**16 is 1 modulo 0xffff, so the big integer's residue is the folded sum of its 16-bit digits.
    folded = int.from_bytes(data, "big") % 0xFFFF
    if folded == 0 and any(data):
        folded = 0xFFFF
    return folded ^ 0xFFFF
