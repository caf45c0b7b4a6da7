"""The functions WireGuard is made of, against published vectors, and its replay window against a set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.datapath.wireguard.noise import _CHAIN, _PROLOGUE
from overlayd.datapath.wireguard.primitives import (
    ChaCha20Poly1305,
    InvalidTag,
    PrivateKey,
    derive,
    hash_of,
    hchacha20,
    open_xsealed,
    xseal,
)
from overlayd.datapath.wireguard.replay import WINDOW, ReplayWindow
from overlayd.datapath.wireguard.tai64n import Stamps

SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen"
    b" would be it."
)
BOUND = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
KEY = bytes(range(0x80, 0xA0))


def test_blake2s_rfc_7693_appendix_b() -> None:
    assert hash_of(b"a", b"bc").hex() == "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"


@pytest.mark.parametrize(
    ("key", "data", "found"),
    [
        (
            "746573742d6b6579",
            "746573742d696e707574",
            (
                "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
                "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
                "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24",
            ),
        ),
        (
            "776972656775617264",
            "776972656775617264",
            (
                "491d43bbfdaa8750aaf535e334ecbfe5129967cd64635101c566d4caefda96e8",
                "1e71a379baefd8a79aa4662212fcafe19a23e2b609a3db7d6bcba8f560e3d25f",
                "31e1ae48bddfbe5de38f295e5452b1909a1b4e38e183926af3780b0c1e1f0160",
            ),
        ),
        (
            "",
            "",
            (
                "8387b46bf43eccfcf349552a095d8315c4055beb90208fb1be23b894bc2ed5d0",
                "58a0e5f6faefccf4807bff1f05fa8a9217945762040bcec2f4b4a62bdfe0e86e",
                "0ce6ea98ec548f8e281e93e32db65621c45eb18dc6f0a7ad94178610a2f7338e",
            ),
        ),
    ],
)
def test_kdf_wireguard_go_device_kdf_test(key: str, data: str, found: tuple[str, ...]) -> None:
    for count in (1, 2, 3):
        made = derive(bytes.fromhex(key), bytes.fromhex(data), count)
        assert tuple(one.hex() for one in made) == found[:count]


def test_chacha20_poly1305_rfc_8439_2_8_2() -> None:
    nonce = bytes.fromhex("070000004041424344454647")
    sealed = ChaCha20Poly1305(KEY).encrypt(nonce, SUNSCREEN, BOUND)
    assert sealed[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"
    assert sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"


def test_hchacha20_draft_irtf_cfrg_xchacha_2_2_1() -> None:
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    assert hchacha20(bytes(range(32)), nonce).hex() == (
        "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    )


def test_xchacha20_poly1305_draft_irtf_cfrg_xchacha_a_3() -> None:
    nonce = bytes(range(0x40, 0x58))
    sealed = xseal(KEY, nonce, SUNSCREEN, BOUND)
    assert sealed[:16].hex() == "bd6d179d3e83d43b9576579493c0e939"
    assert sealed[-16:].hex() == "c0875924c1c7987947deafd8780acf49"
    assert open_xsealed(KEY, nonce, sealed, BOUND) == SUNSCREEN
    with pytest.raises(InvalidTag):
        open_xsealed(KEY, nonce, sealed, BOUND + b"x")


def test_x25519_rfc_7748_6_1() -> None:
    alice = PrivateKey(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = PrivateKey(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert alice.agree(bob.public) == bob.agree(alice.public) == shared


def test_what_a_handshake_begins_with_is_wireguards() -> None:
    """The hashes of the construction and of the prologue are constants of other implementations."""
    assert _CHAIN.hex() == "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36"
    assert _PROLOGUE.hex() == "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3"


@pytest.mark.parametrize("low", [bytes(32), b"\1" + bytes(31)])
def test_points_of_low_order_give_no_secret(low: bytes) -> None:
    assert PrivateKey(bytes(range(32))).agree(low) is None


# --- replay window ----------------------------------------------------------------------------------------------------


def test_the_vectors_of_wireguard_go_replay_test() -> None:
    """device/replay_test.go: what is asked, and whether it is new."""
    limit = WINDOW + 1
    window = ReplayWindow()

    def put(counter: int) -> bool:
        fresh = window.fresh(counter)
        if fresh:
            window.mark(counter)
        return fresh

    ask = [(0, 1), (1, 1), (1, 0), (9, 1), (8, 1), (7, 1), (7, 0), (limit, 1), (limit - 1, 1), (limit - 1, 0)]
    ask += [(limit - 2, 1), (2, 1), (2, 0), (limit + 16, 1), (3, 0), (limit + 16, 0), (limit * 4, 1)]
    ask += [(limit * 4 - (limit - 1), 1), (10, 0), (limit * 4 - limit, 0), (limit * 4 - (limit + 1), 0)]
    ask += [(limit * 4 - (limit - 2), 1), (limit * 4 + 1 - limit, 0), (0, 0)]
    assert [put(counter) for counter, _ in ask] == [bool(fresh) for _, fresh in ask]


@given(
    st.lists(
        st.tuples(st.sampled_from(["next", "far", "back", "any"]), st.integers(0, 3 * WINDOW)), min_size=1, max_size=60
    )
)
def test_it_is_a_set_with_a_horizon(steps: list[tuple[str, int]]) -> None:
    window, seen, greatest = ReplayWindow(), set[int](), -1
    for how, amount in steps:
        counter = {"next": greatest + 1, "far": greatest + amount, "back": greatest - amount, "any": amount}[how]
        counter = max(counter, 0)
        fresh = counter not in seen and greatest - counter <= WINDOW
        assert window.fresh(counter) is fresh
        if fresh:
            window.mark(counter)
            seen.add(counter)
            greatest = max(greatest, counter)


# --- time stamps ------------------------------------------------------------------------------------------------------


def test_stamps_grow_whatever_the_clock_does() -> None:
    clock = [1_700_000_000 * 10**9]
    stamps = Stamps(lambda: clock[0])
    found = [stamps.next(), stamps.next()]
    seconds = int.from_bytes(found[0][:8], "big") - 2**62 - 10
    nanoseconds = int.from_bytes(found[0][8:], "big")
    assert 0 <= clock[0] - seconds * 10**9 - nanoseconds < 2**24
    clock[0] -= 10**12
    found.append(stamps.next())
    clock[0] += 10**13
    found.append(stamps.next())
    assert found == sorted(set(found))
    assert {len(one) for one in found} == {12}
