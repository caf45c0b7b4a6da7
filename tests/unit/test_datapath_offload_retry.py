"""A refused offload is tried again, less and less often."""

from __future__ import annotations

import asyncio

import pytest

from overlayd.datapath import offload_retry
from overlayd.datapath.offload_retry import OffloadRetry


async def test_it_is_tried_again_and_later_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload_retry, "_FIRST", 0.01)
    restored = asyncio.Event()
    retry = OffloadRetry(restored.set)
    for seconds in (0.01, 0.02, 0.04):
        assert retry._seconds == seconds
        restored.clear()
        retry.refused("udp_gso", "Input/output error")
        retry.refused("tunnel_gso", "Input/output error")  # the same attempt covers both
        async with asyncio.timeout(30):
            await restored.wait()


async def test_nothing_is_restored_after_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload_retry, "_FIRST", 0.01)
    restored = asyncio.Event()
    retry = OffloadRetry(restored.set)
    retry.refused("udp_gso", "Input/output error")
    retry.cancel()
    await asyncio.sleep(0.05)
    assert not restored.is_set()
