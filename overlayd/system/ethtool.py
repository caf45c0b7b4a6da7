"""Features of a network device (linux/ethtool.h, ETHTOOL_GFEATURES)."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSSET_INFO, _GFEATURES = 0x1B, 0x37, 0x3A
_SS_FEATURES = 4
_NAME = 32  # ETH_GSTRING_LEN


def features(device: str) -> frozenset[str]:
    """The names of the features that are on, as `ethtool -k` spells the kernel's own. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

        def ask(command: bytes, size: int) -> bytes:
            answer = array.array("B", command.ljust(size, b"\0"))
            request = struct.pack("16sP16x", device.encode(), answer.buffer_info()[0])
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
            return answer.tobytes()

        info = ask(struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SS_FEATURES, 0), 20)
        (count,) = struct.unpack_from("=I", info, 16)
        strings = ask(struct.pack("=III", _GSTRINGS, _SS_FEATURES, count), 12 + count * _NAME)
        names = [strings[at : at + _NAME].split(b"\0")[0].decode() for at in range(12, 12 + count * _NAME, _NAME)]
        blocks = (count + 31) // 32
        answer = ask(struct.pack("=II", _GFEATURES, blocks), 8 + blocks * 16)
        active = [struct.unpack_from("=4I", answer, 8 + block * 16)[2] for block in range(blocks)]
    return frozenset(name for bit, name in enumerate(names) if active[bit // 32] >> bit % 32 & 1)
