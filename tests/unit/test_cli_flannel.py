"""flannel's command line and environment: what overlayd takes from them."""

from __future__ import annotations

import pytest

from overlayd.cli import flannel
from overlayd.cli.overlayd import main, parser
from overlayd.core.errors import UsageError


@pytest.mark.parametrize(
    ("flannels", "ours"),
    [
        (["-iface=eth0"], ["--iface=eth0"]),
        (["-iface", "eth0", "-ip-masq"], ["--iface", "eth0", "--ip-masq"]),
        (["-etcd-endpoints=http://a:1,http://b:2"], ["--etcd-endpoints=http://a:1,http://b:2"]),
        (["-v=4", "-v", "4", "-h", "--iface=-x"], ["-v=4", "-v", "4", "-h", "--iface=-x"]),
    ],
)
def test_one_dash_or_two(flannels: list[str], ours: list[str]) -> None:
    assert flannel.arguments(flannels, {}, parser()) == (ours, [])


def test_variables_come_before_what_is_typed() -> None:
    environment = {
        "FLANNELD_IFACE": "eth0",
        "FLANNELD_IP_MASQ": "true",
        "FLANNELD_PUBLIC_IP": "192.0.2.1",
        "OVERLAYD_PUBLIC_IP": "192.0.2.2",
        "FLANNELD_EMPTY": "",
        "FLANNELD_UNKNOWN": "1",
        "FLANNEL_MTU": "1450",
    }
    words, remarks = flannel.arguments(["--iface=eth1"], environment, parser())
    assert words == ["--iface=eth0", "--ip-masq=true", "--iface=eth1"]
    assert getattr(parser().parse_args(words), "iface") == "eth1"  # noqa: B009  # other names have a slash
    assert remarks == [
        "FLANNELD_IFACE: used as --iface",
        "FLANNELD_IP_MASQ: used as --ip-masq",
        "FLANNELD_PUBLIC_IP: ignored, OVERLAYD_PUBLIC_IP is set",
        "FLANNELD_UNKNOWN: overlayd has no option --unknown; ignored",
    ]


@pytest.mark.parametrize("name", flannel.UNSUPPORTED)
def test_what_is_not_supported_is_said(name: str) -> None:
    given = parser().parse_args([f"--{name}"])
    with pytest.raises(UsageError, match=f"--{name} is not supported: .*"):
        flannel.apply(given)
    flannel.apply(parser().parse_args([f"--{name}=false"]))


@pytest.mark.parametrize(
    ("argv", "level"),
    [(["-v=4"], "debug"), (["--v=10"], "debug"), (["-v=0"], None), (["-v=4", "--log-level=error"], "error")],
)
def test_verbosity(argv: list[str], level: str | None) -> None:
    given = parser().parse_args(argv)
    flannel.apply(given)
    assert given.log_level == level


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--ifcae", "eth0"], "overlayd: unknown option --ifcae; did you mean --iface? See 'overlayd --help'\n"),
        (["-ifcae=eth0"], "overlayd: unknown option --ifcae; did you mean --iface? See 'overlayd --help'\n"),
        (["--check", "--cleanup"], "overlayd: --cleanup: not allowed with argument --check; see 'overlayd --help'\n"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert (ended.value.code, capsys.readouterr().err) == (2, line)


def test_every_error_has_the_programs_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kube-subnet-mgr"]) == 2
    assert main(["--check", "--vxlan-port=0", "--mtu=x", "--network=10.1.0.0/16"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in lines] == [
        ["overlayd", " --kube-subnet-mgr is not supported"],
        ["overlayd", " --mtu"],
        ["overlayd", " --vxlan-port"],
    ]


def test_a_daemon_does_not_end_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("overlayd.cli.overlayd.run", broken)
    with pytest.raises(RuntimeError, match="a connection ended"):
        main(["--network=10.1.0.0/16"])
