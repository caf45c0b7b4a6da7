"""The etcd that tests and the lab start: that it is a real one, and can be hurt and healed."""

from __future__ import annotations

import base64
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from overlayd.lab import LabError
from overlayd.lab.etcd import Etcd, loopback
from overlayd.lab.state import Process

KEY = "/coreos.com/network/subnets/10.5.52.0-24"


def test_it_keeps_its_data_over_a_kill_and_a_stop(etcd: Etcd) -> None:
    member = etcd.members[0]
    lease = etcd.grant(3600)
    etcd.put(KEY, {"PublicIP": "192.168.77.1"}, lease)
    for end in (member.kill, member.stop):
        end()
        assert member.pid is None
        assert not member.health()
        member.start()
        assert etcd.get(KEY) == '{"PublicIP":"192.168.77.1"}'
    assert etcd.below("/coreos.com/") == {KEY: '{"PublicIP":"192.168.77.1"}'}
    assert etcd.lease_of(KEY) == lease
    assert etcd.leases() == {lease}
    etcd.revoke(lease)
    assert etcd.get(KEY) is None
    assert etcd.leader() is member


def test_each_test_gets_an_empty_one(etcd: Etcd) -> None:
    assert etcd.below("/") == {}
    assert etcd.leases() == set()


def test_a_paused_one_accepts_and_does_not_answer(etcd: Etcd) -> None:
    member = etcd.members[0]
    member.pause()
    assert member.pid is not None
    assert not member.health()
    member.resume()
    assert member.health()


def test_history_can_be_compacted(etcd: Etcd) -> None:
    etcd.put(KEY, "1")
    first = etcd.revision()
    etcd.put(KEY, "2")
    assert etcd.ctl_json("get", "--rev", str(first), KEY)["kvs"][0]["value"] == base64.b64encode(b"1").decode()
    assert etcd.compact() == first + 1
    with pytest.raises(LabError, match="has been compacted"):
        etcd.ctl("get", "--rev", str(first), KEY)


def test_users_may_do_only_what_their_role_says() -> None:
    with loopback() as etcd:
        etcd.enable_auth()
        user = (etcd.settings()["username"], etcd.settings()["password"])
        etcd.ctl("put", KEY, "1", user=user)
        assert etcd.get(KEY) == "1"
        with pytest.raises(LabError, match="permission denied"):
            etcd.ctl("put", "/elsewhere", "1", user=user)
        with pytest.raises(LabError, match="authentication failed"):
            etcd.ctl("get", KEY, user=(user[0], "wrong"))


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = """
import sys, time
from overlayd.lab.etcd import loopback
with loopback() as etcd:
    print(etcd.members[0].pid, flush=True)
    time.sleep(1000)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed process leaves the data behind
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        process = Process.of(int(child.stdout.readline()))
        assert process is not None
        handle = os.pidfd_open(process.pid)
        child.kill()
    assert select.select([handle], [], [], 10)[0], "etcd runs on"
    os.close(handle)
