"""`make uninstall` on a machine on which overlayd runs."""

from __future__ import annotations

import pytest

from support.machine import ROOT, Pair
from support.service import assert_nothing_left


@pytest.mark.timeout(400)
def test_uninstall_of_a_running_service(pair: Pair) -> None:
    a = pair.a
    pair.start("vxlan")
    assert pair.talk()
    a.sh("systemctl", "enable", "overlayd@vxlan")
    for name in ("Makefile", "config/overlayd.yaml"):
        a.write(f"/root/overlayd/{name}", (ROOT / name).read_text())
    a.sh("make", "-C", "/root/overlayd", "uninstall")
    assert_nothing_left(a)
    assert not a.exists("/usr/local/lib/overlayd")
    assert a.exists("/etc/overlayd/overlayd.yaml"), "the administrator's own"
    assert a.sh("systemctl", "list-units", "--all", "--plain", "--no-legend", "overlayd*").stdout == ""
