"""Tests in here make network namespaces."""

import pytest

from support.etcd_server import etcd, etcd_process

__all__ = ["etcd", "etcd_process"]


@pytest.fixture(scope="session", autouse=True)
def _privileged(privileged: None) -> None:
    """Every test in here wants that."""
