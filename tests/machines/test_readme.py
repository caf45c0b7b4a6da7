"""README's commands on two machines, as written and in README's order: a is installed by the Debian package, b by
`make install`. Each section has a table that says by what rule a command is run; a command without one fails.

Placeholders: README's addresses are the machines' own; 192.0.2.10 to .12 are the switch, where etcd runs. What needs
the Internet, apt's packages and the build, is done on the machine that the tests run on.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from overlayd import __version__
from overlayd.lab import Namespace
from overlayd.lab.etcd import Etcd
from overlayd.lab.etcd_member import Endpoint
from overlayd.lab.etcdctl import USER
from overlayd.lab.namespace import ip_batch
from support.machine import Machine, Pair, debian, machines
from support.readme import Rule, sections, walk
from support.readme_machines import Walk, elsewhere
from support.service import assert_nothing_left

pytestmark = pytest.mark.timeout(400)

REMOVAL = ("apt remove overlayd", "apt purge overlayd", "make uninstall")


@pytest.fixture(scope="module")
def pair(_privileged: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with machines([debian()], tmp_path_factory.mktemp("machines"), with_overlayd=False) as made:
        yield made


@pytest.fixture(scope="module")
def on(pair: Pair, stage: Path, deb: Path, next_deb: Path) -> Walk:
    return Walk(pair, stage, deb, next_deb)


@pytest.fixture
def two_hosts(on: Walk) -> None:
    """Both run as "Two hosts" says, whatever was before."""
    on.edit("")
    on.talking("systemctl restart overlayd@vxlan")


def test_install_as_a_service(on: Walk) -> None:
    rules: dict[str, Rule] = {
        "apt install make": on.packages,
        "make deb": on.package,
        "apt install ./dist/overlayd_*.deb": on.on_a,
        "apt install make python3-venv python3-dev gcc nftables iproute2": on.packages,
        "make install": on.make_install,
        "editor /etc/overlayd/overlayd.yaml": on.edit,
        "overlayd --mode vxlan --check": on.everywhere,
        "systemctl enable --now overlayd@vxlan": on.talking,
        "overlayctl status": on.healthy,
        "systemctl reload overlayd@vxlan": on.talking,
        "systemctl restart overlayd@vxlan": on.talking,
        "systemctl start overlayd-cleanup": on.clean,
        "make image": elsewhere("tests/image/test_image.py"),
        "podman run": elsewhere("tests/image/test_image.py"),
    }
    walk([command for command in sections()["Install as a service"].commands if command not in REMOVAL], rules)
    assert on.run(on.pair.a, "overlayd --version") == f"overlayd {__version__}\n"


def test_two_hosts(on: Walk) -> None:
    on.edit("")
    walk(
        sections()["Two hosts"].commands,
        {
            "systemctl enable --now overlayd@vxlan": on.talking,
            "overlayd --check": on.everywhere,
            "overlayd": on.by_hand,
            "overlayctl status": on.healthy,
            "dockerd $(overlayctl docker-opts)": on.dockerd,
        },
    )


@pytest.mark.usefixtures("two_hosts")
def test_troubleshooting(on: Walk) -> None:
    rules = dict.fromkeys(sections()["Troubleshooting"].commands, on.everywhere)
    walk(sections()["Troubleshooting"].commands, {**rules, "overlayctl status": on.healthy})


@pytest.mark.usefixtures("two_hosts")
def test_status_and_monitoring(on: Walk) -> None:
    walk(
        sections()["Status and monitoring"].commands,
        {
            "overlayctl status": on.healthy,
            "overlayctl peer list": on.everywhere,
            "overlayctl peer show host-b": on.on_a,
            "overlayctl counters": on.everywhere,
            "overlayctl top": on.top,
            'journalctl OVERLAYD_EVENT="peer does not answer"': on.everywhere,
        },
    )


@pytest.mark.usefixtures("two_hosts")
def test_configuration(on: Walk) -> None:
    mistake, *commands = sections()["Configuration"].commands
    walk(commands, {"overlayctl reload": on.everywhere, "overlayctl status": on.healthy})
    row = "  - {name: n%d, subnet: 10.1.%s/24, public_ip: 192.0.2.%d}\n"
    rows = "".join(row % (n, subnet, n) for n, subnet in ((3, "3.0"), (4, "4.0"), (5, "16.5")))
    text = f"# the third row is in line 7\n\nnetwork: 10.1.0.0/16\nleases:\n{rows}"
    on.pair.a.write("/etc/overlayd/overlayd.yaml", text)
    done = on.pair.a.sh("overlayd", "--check", check=False)
    assert (done.returncode, done.stderr) == (2, f"{mistake}\n")


@pytest.mark.usefixtures("two_hosts")
def test_what_it_does_to_a_host(on: Walk) -> None:
    def cleanup(command: str) -> None:
        on.everywhere("systemctl stop overlayd@vxlan")
        on.clean(command)

    walk(
        sections()["What it does to a host"].commands,
        {
            "ip link show group 7304812": on.everywhere,
            "ip route show proto 178": on.everywhere,
            "overlayd --cleanup": cleanup,
        },
    )


@pytest.fixture(scope="module")
def cluster(on: Walk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """etcd with TLS and users at README's three addresses, its files where README has them."""
    etcd = Etcd(tmp_path_factory.mktemp("etcd"))
    switch = on.pair.switch
    nodes = [Namespace(f"e{n}", f"{switch.namespace}-e{n}") for n in (10, 11, 12)]
    try:
        for n, node in enumerate(nodes, 10):
            ip_batch([f"netns add {node.namespace}"])
            switch.ip(
                f"link add {node.name} type veth peer name eth0 netns {node.namespace}",
                f"link set {node.name} master br0 up",
            )
            node.ip("link set lo up", f"addr add 192.0.2.{n}/24 dev eth0", "link set eth0 up")
            etcd.add(node.name, Endpoint(ip_address(f"192.0.2.{n}")), node)
        etcd.use_tls()
        etcd.start()
        etcd.enable_auth()
        yield etcd
    finally:
        etcd.kill()
        for node in nodes:
            ip_batch([f"netns delete {node.namespace}"])


@pytest.mark.usefixtures("two_hosts")
def test_a_cluster(on: Walk, cluster: Etcd) -> None:
    """The hosts' subnets stay those of their subnet.env, so that their containers fit."""
    on.everywhere("systemctl stop overlayd@vxlan")
    assert cluster.tls is not None
    (text,) = sections()["A cluster"].yaml
    assert f"username: {USER[0]} " in text
    files = {
        "etcd-ca.pem": cluster.tls.authority.cafile,
        "etcd-client.pem": cluster.tls.client.cert,
        "etcd-client.key": cluster.tls.client.key,
    }
    for machine in on.both:
        machine.ip("route add default via 192.0.2.10")  # by which overlayd finds the interface
        machine.write("/etc/overlayd/overlayd.yaml", text.replace("password: ...", f"password: {USER[1]}"))
        for name, file in files.items():
            assert f": /etc/overlayd/{name} " in text.replace("\n", " ")
            machine.write(f"/etc/overlayd/{name}", file.read_text())

    walk(
        sections()["A cluster"].commands,
        {
            "overlayctl etcd init --network 10.1.0.0/16 --backend vxlan": on.on_a,
            "systemctl enable --now overlayd@vxlan": on.talking,
            "overlayctl lease list": on.everywhere,
            "overlayctl lease watch": on.watch,
            "overlayctl lease reserve 10.1.7.0/24": on.on_a,
            "overlayctl lease reserve 10.1.8.0/24 --public-ip 192.0.2.8": on.on_a,
            "overlayctl lease release": on.release_own,
            "overlayctl lease release 10.1.7.0/24": on.on_a,
            "overlayctl status": on.healthy,
            "sudo .venv/bin/overlayctl lab up --hosts 5 --registry etcd": elsewhere("tests/netns/test_readme_lab.py"),
        },
    )


@pytest.mark.usefixtures("two_hosts")
def test_upgrade(on: Walk) -> None:
    walk(
        sections()["Upgrade"].commands,
        {
            "apt install ./overlayd_NEW.deb": on.upgrade_of_a,
            "git pull && make install && systemctl try-restart 'overlayd@*'": on.upgrade_of_b,
        },
    )


@pytest.mark.usefixtures("two_hosts")
def test_removal(on: Walk) -> None:
    a, b = on.both

    def remove(machine: Machine) -> Rule:
        def run(command: str) -> None:
            on.run(machine, command)
            assert_nothing_left(machine)

        return run

    commands = [command for command in sections()["Install as a service"].commands if command in REMOVAL]
    walk(commands, dict(zip(REMOVAL, (remove(a), remove(a), remove(b)), strict=True)))
    assert not a.exists("/etc/overlayd")
    assert not a.exists("/var/lib/overlayd")
    assert b.exists("/etc/overlayd/overlayd.yaml"), "it was edited"
    assert b.exists("/var/lib/overlayd")
