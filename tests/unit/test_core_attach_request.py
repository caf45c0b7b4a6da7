"""What goes over the attach socket: whatever comes, a request or an error in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.request import (
    AttachRequest,
    DetachRequest,
    RefreshRequest,
    answer,
    parse_answer,
    parse_request,
    refusal,
)

ATTACH = {"call": "attach", "container": "c1", "interface": "eth0", "netns": "/run/netns/c1"}


@pytest.mark.parametrize(
    "request_",
    [
        AttachRequest(container="c1", interface="eth0", netns="/run/netns/c1", sysctls=(("net.core.somaxconn", "1"),)),
        DetachRequest(container="c1"),
        DetachRequest(container="c1", interface="eth1"),
        RefreshRequest(container="c1", interface="eth0"),
    ],
)
def test_a_request_is_read_as_it_was_made(request_: Any) -> None:
    assert parse_request(json.dumps(request_.json()).encode()) == request_


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "request: not JSON .0 bytes"),
        (b"\xff\xfe", "request: not JSON"),
        (b"[" * 60_000, "request: not JSON"),
        (b"7", "request: not an object"),
        (b"{}", "call: None is not one of attach, detach, refresh"),
        (json.dumps({**ATTACH, "call": "attatch"}).encode(), "did you mean attach"),
        (json.dumps({**ATTACH, "prot": 1}).encode(), "attach: unknown key 'prot'"),
        (json.dumps({**ATTACH, "container": "../x"}).encode(), "container: '../x' is not a valid name"),
        (json.dumps({**ATTACH, "mode": "vlan"}).encode(), "mode: 'vlan' is not one of bridge, routed"),
        (json.dumps({**ATTACH, "network": ""}).encode(), "network: '' is not a valid name"),
        (json.dumps({"call": "detach"}).encode(), "container: None is not a valid name"),
        (json.dumps({"call": "refresh", "container": "c1"}).encode(), "interface: None is not a valid interface name"),
    ],
)
def test_what_is_wrong_with_a_request(data: bytes, text: str) -> None:
    with pytest.raises(AttachError, match=text):
        parse_request(data)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_request_or_an_error(data: bytes) -> None:
    for parse in (parse_request, parse_answer):
        try:
            parse(data)
        except AttachError:
            continue


def test_a_refusal_is_raised_with_its_kind() -> None:
    with pytest.raises(AttachError, match="the subnet is exhausted") as error:
        parse_answer(refusal(AttachError("the subnet is exhausted", "exhausted")))
    assert error.value.kind == "exhausted"
    with pytest.raises(AttachError) as error:
        parse_answer(b'{"error": "x", "kind": "of another version"}')
    assert error.value.kind == "refused"
    assert parse_answer(answer([])) == []
