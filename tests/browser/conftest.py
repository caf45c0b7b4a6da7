"""Tests in here open pages in Chromium. Without it they are skipped, and the skip says how to enable them; with
OVERLAYD_REQUIRE_PRIVILEGED=1, as CI sets it, the skip is a failure."""

import os

import pytest
from chromium import missing


@pytest.fixture(scope="session", autouse=True)
def _chromium() -> None:
    reason = missing()
    if reason is None:
        return
    if os.environ.get("OVERLAYD_REQUIRE_PRIVILEGED") == "1":
        pytest.fail(f"{reason} (OVERLAYD_REQUIRE_PRIVILEGED=1 forbids to skip)", pytrace=False)
    pytest.skip(reason)
