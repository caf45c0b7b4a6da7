"""What adopt and leave say, in words and as JSON, and what is left to the operator."""

from __future__ import annotations

import json

import pytest

from overlayd.cli.account import Account
from overlayd.system.errors import HostError
from overlayd.system.processes import DaemonProcess
from overlayd.system.units import Handover


class Units(Handover):
    """A handover that is only written down."""

    def finish(self) -> None:
        if self.successor == "refused.service":
            raise HostError("systemctl enable --now refused.service: no")


def account(*, json: bool = False, dry_run: bool = False) -> Account:
    made = Account(json=json, dry_run=dry_run)
    made.say("mode", "vxlan")
    made.process("flanneld", DaemonProcess("flanneld", 77, "flanneld.service"))
    made.steps("kernel", ["~ link ovl.1"])
    made.add("rules", "table ip flannel-ipv4", "removed")
    return made


HANDOVER = Units("flanneld.service", "overlayd@vxlan.service")


def test_commands_of_a_handover() -> None:
    assert HANDOVER.commands == [
        "systemctl stop flanneld.service",
        "systemctl disable flanneld.service",
        "systemctl enable --now overlayd@vxlan.service",
    ]
    assert Units("flanneld.service", None).commands[1:] == ["systemctl disable flanneld.service"]


def test_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert account().end([], HANDOVER, "start it") == 0
    assert capsys.readouterr().out == (
        "mode      vxlan\nflanneld  process 77, flanneld.service\nkernel\n  ~ link ovl.1\n"
        "rules     table ip flannel-ipv4: removed\n"
    )


@pytest.mark.parametrize(
    ("handover", "dry_run", "left"),
    [
        (HANDOVER, False, None),
        (None, False, "start it"),
        (Units("flanneld.service", None), False, "start it"),  # there is no unit of overlayd's
        (None, True, None),
    ],
)
def test_what_is_left(
    handover: Handover | None, dry_run: bool, left: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert account(json=True, dry_run=dry_run).end([], handover, "start it") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dry_run"], found["next"], found["failures"]) == (dry_run, left, [])
    assert found["flanneld"] == {"pid": 77, "unit": "flanneld.service"}
    assert found["rules"] == [{"name": "table ip flannel-ipv4", "state": "removed"}]


def test_what_fails_is_said_and_nothing_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert account(json=True).end([], Units("flanneld.service", "refused.service"), "start it") == 1
    said = capsys.readouterr()
    assert said.err == "overlayctl: systemctl enable --now refused.service: no\n"
    assert json.loads(said.out)["failures"] == ["systemctl enable --now refused.service: no"]
    assert account().end(["device ovl.1: no"], Units("flanneld.service", "refused.service"), "start it") == 1
    assert "refused.service" not in capsys.readouterr().err
