"""Probes between overlayd nodes: they read back, nothing is amplified, and no bytes make the parser raise."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overlayd.wire import hello
from overlayd.wire.probe import LENGTH, NONCE, Probe, ProbeKind, Sender, decode

US = Sender(1, "0.1.0", 1472, True)
RELEASES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=16)
SENDERS = st.builds(Sender, st.integers(0, 255), RELEASES, st.integers(0, 65535), st.booleans())


@given(SENDERS, st.binary(min_size=NONCE, max_size=NONCE), st.integers(LENGTH, 65507), SENDERS)
def test_a_question_and_its_answer_read_back(one: Sender, nonce: bytes, length: int, other: Sender) -> None:
    question = Probe(ProbeKind.QUESTION, one, nonce, length)
    payload = question.encode()
    assert len(payload) == length
    assert decode(payload) == question
    answer = question.answer(other)
    assert decode(answer.encode()) == answer
    assert (answer.nonce, answer.length) == (nonce, length)
    assert len(answer.encode()) == LENGTH <= len(payload), "nothing is amplified"


SOUND = Probe(ProbeKind.QUESTION, US, bytes(NONCE), LENGTH).encode()


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: SOUND[:6] + tail))
@example(SOUND)
def test_bytes_are_a_probe_or_none(payload: bytes) -> None:
    found = decode(payload)
    if found is not None:
        assert len(found.answer(US).encode()) <= len(payload)
        again = decode(found.encode())
        assert again == found


@given(st.integers(0, LENGTH - 1), st.integers(0, 255))
def test_a_changed_byte_is_another_probe_or_none(at: int, value: int) -> None:
    found = decode(SOUND[:at] + bytes([value]) + SOUND[at + 1 :])
    assert found is None or found.sender.release.isprintable()


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5])
def test_what_is_not_known_is_no_probe(at: int) -> None:
    assert decode(SOUND[:at] + b"\x77" + SOUND[at + 1 :]) is None


def test_lengths() -> None:
    assert decode(SOUND[:-1]) is None
    assert decode(SOUND + b"\0") is None, "a question says how long it is"
    long = Probe(ProbeKind.QUESTION, US, bytes(NONCE), 1472).encode()
    assert decode(long[:-1]) is None, "nor may it be cut on the way"
    answer = Probe(ProbeKind.ANSWER, US, bytes(NONCE), 1472).encode()
    assert decode(answer + b"\0") is None
    short = Probe(ProbeKind.ANSWER, US, bytes(NONCE), LENGTH - 1).encode()
    assert decode(short) is None, "there is no such question"


def test_a_release_draws_on_no_terminal() -> None:
    assert decode(SOUND.replace(b"0.1.0", b"0\x1b[3m")) is None
    assert decode(SOUND.replace(b"0.1.0", b"0.\xff.0")) is None
    assert decode(SOUND.replace(b"0.1.0\0", b"0.1\0.0")) is None


def test_a_mode_of_a_later_version_is_unknown() -> None:
    found = decode(SOUND[:6] + b"\x09" + SOUND[7:])
    assert found is not None
    assert found.sender.mode == 9


def test_a_release_that_is_too_long_is_cut() -> None:
    found = decode(
        Probe(ProbeKind.ANSWER, Sender(1, "1.2.3.dev456+gabcdef", 1472, True), bytes(NONCE), LENGTH).encode()
    )
    assert found is not None
    assert found.sender.release == "1.2.3.dev456+gab"


def test_it_is_no_greeting() -> None:
    assert hello.decode(SOUND) is None
    assert hello.decode(SOUND[: hello.LENGTH]) is None
