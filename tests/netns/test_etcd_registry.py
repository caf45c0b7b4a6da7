"""The registry of one node, and of many in one process, on a real etcd. The clock is the tests'; nothing waits for it.

What daemons and kernels make of it is in test_etcd_cluster.py.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseTable
from overlayd.core.node import Underlay
from overlayd.core.settings.model import Settings
from overlayd.core.settings.validation import validate
from overlayd.lab.etcd import Etcd
from overlayd.registry.base import LeaseChanges, Moved, NotYetError, RegistryError, Snapshot, Update
from overlayd.registry.etcd import admin
from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.messages import Delete, Put
from overlayd.registry.etcd.registry import EtcdRegistry
from overlayd.system.state_dir import StateDir
from support.commands import one_line
from support.logs import capture_logs
from support.waiting import eventually_async

PREFIX = "/coreos.com/network"
CONFIG = '{"Network":"10.5.0.0/16","SubnetMin":"10.5.40.0","Backend":{"Type":"vxlan","VNI":1}}'
"""What others hold in these tests, from 10.5.9.0/24 to 10.5.29.0/24, no node chooses by chance."""
SMALL = '{"Network":"10.5.0.0/24","SubnetLen":%d,"Backend":{"Type":"udp"}}'
DUAL = '{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}'


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.time = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.time + seconds, sleeper))
        await sleeper

    def advance(self, seconds: float) -> None:
        self.time += seconds
        for due, sleeper in self._sleepers:
            if due <= self.time and not sleeper.done():
                sleeper.set_result(None)


async def at_once(_: float) -> None:
    """A sleep that takes no time, but lets others run."""
    await asyncio.sleep(0)


async def settled() -> None:
    """Whatever can run now has run."""
    for _ in range(8):
        await asyncio.sleep(0)


@dataclass
class Node:
    """A node as the daemon would run it, without its kernel."""

    registry: EtcdRegistry
    given: Settings
    underlay: Underlay
    lease: Lease | None = None
    table: LeaseTable = field(default_factory=LeaseTable)
    moved: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def acquire(self) -> Lease:
        settings = await self.registry.configure(self.given)
        self.lease = await self.registry.acquire(settings, self.underlay)
        return self.lease

    async def run(self) -> Node:
        """Acquire and follow."""
        await self.acquire()
        self.table.replace(self.registry.leases(self.given))
        self.tasks = [asyncio.ensure_future(one) for one in (*self.registry.tasks().values(), self._follow())]
        await eventually_async(lambda: self.registry.state().since is not None, "the watch stands")
        return self

    async def _follow(self) -> None:
        async for update in self.registry.updates():
            self.take(update)

    def take(self, update: Update) -> None:
        if isinstance(update, Moved):
            self.moved.append(update.reason)
        elif isinstance(update, Snapshot):
            self.table.replace(update.leases)
        else:
            assert isinstance(update, LeaseChanges)
            self.table.apply(update.leases)

    @property
    def subnets(self) -> list[str]:
        """What it knows of the cluster."""
        return sorted(str(lease.subnets[0]) for lease in self.table)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.registry.close()


Make = Callable[..., Node]


@pytest.fixture
async def make(etcd: Etcd, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes nodes, each with a directory of its own by name; all are stopped in the end."""
    made: list[Node] = []
    etcd.put(f"{PREFIX}/config", CONFIG)

    def new(
        name: str = "a",
        public: str | None = "192.0.2.1",
        public6: str | None = None,
        clock: Clock | None = None,
        read_only: bool = False,
        heartbeat: float = 5.0,
        **settings: Any,
    ) -> Node:
        given = validate({"registry": "etcd", "etcd": {"endpoints": etcd.endpoints}, **settings}, SETTINGS)
        assert isinstance(given, Settings), [str(problem) for problem in given]
        store = StateDir(tmp_path / name / "state", tmp_path / name / "subnet.env")
        now, sleep = (clock.now, clock.sleep) if clock else (lambda: 0.0, at_once)
        registry = EtcdRegistry(given, store, name, read_only=read_only, now=now, sleep=sleep, heartbeat=heartbeat)
        underlay = Underlay(
            "eth0", 2, 1500, (), IPv4Address(public) if public else None, IPv6Address(public6) if public6 else None
        )
        made.append(Node(registry, given, underlay))
        return made[-1]

    yield new
    for node in made:
        await node.stop()


def subnet_keys(etcd: Etcd) -> dict[str, str]:
    below = etcd.below(f"{PREFIX}/subnets/")
    return {key.removeprefix(f"{PREFIX}/subnets/"): value for key, value in below.items()}


def records(etcd: Etcd) -> dict[str, Any]:
    below = etcd.below(f"{PREFIX}/overlayd/hosts/")
    return {key.removeprefix(f"{PREFIX}/overlayd/hosts/"): json.loads(value) for key, value in below.items()}


def key_of(lease: Lease | None) -> str:
    assert lease is not None
    return f"{PREFIX}/subnets/{lease.key}"


def flannels(public: str, mac: str = "06:47:0f:9c:01:2a") -> str:
    """A lease as flannel writes it."""
    return (
        f'{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}'
    )


# --- acquire ---------------------------------------------------------------------------------------------------------


async def test_what_stands_in_etcd(etcd: Etcd, make: Make) -> None:
    node = make("host-a")
    lease = await node.acquire()
    assert subnet_keys(etcd) == {lease.key: flannels("192.0.2.1", lease.vtep_mac)}
    (record,) = records(etcd).items()
    assert record == ("192.0.2.1", {**record[1], "subnet": lease.key, "name": "host-a", "port": 8472})
    (etcd_lease,) = etcd.leases()
    assert etcd.lease_of(key_of(lease)) == etcd_lease
    assert 86_000 < etcd.time_left(etcd_lease) <= 86_400


async def test_what_a_udp_node_writes(etcd: Etcd, make: Make) -> None:
    lease = await make(mode="udp").acquire()
    assert subnet_keys(etcd) == {lease.key: '{"PublicIP":"192.0.2.1","PublicIPv6":null}'}


async def test_both_families(etcd: Etcd, make: Make) -> None:
    etcd.put(f"{PREFIX}/config", DUAL)
    lease = await make(public6="2001:db8::1").acquire()
    assert [subnet.prefixlen for subnet in lease.subnets] == [24, 64]
    ((key, value),) = subnet_keys(etcd).items()
    assert key == f"{lease.subnet}&{lease.ipv6_subnet}".replace("/", "-")
    data = {"VNI": 1, "VtepMAC": lease.vtep_mac}
    assert json.loads(value) == {
        "PublicIP": "192.0.2.1",
        "PublicIPv6": "2001:db8::1",
        "BackendType": "vxlan",
        "BackendData": data,
        "BackendV6Data": data,
    }
    assert (await make(public6="2001:db8::1").acquire()).subnets == lease.subnets, "again the same"


async def test_an_ipv6_address_is_not_named_where_the_network_has_no_ipv6(etcd: Etcd, make: Make) -> None:
    """As flannel: PublicIPv6 is null there."""
    await make(public6="2001:db8::1").acquire()
    assert [json.loads(value)["PublicIPv6"] for value in subnet_keys(etcd).values()] == [None]


async def test_an_ipv4_network_over_ipv6(etcd: Etcd, make: Make) -> None:
    await make(public=None, public6="2001:db8::1").acquire()
    ((_, value),) = subnet_keys(etcd).items()
    assert (json.loads(value)["PublicIP"], json.loads(value)["PublicIPv6"]) == ("0.0.0.0", "2001:db8::1")
    assert list(records(etcd)) == ["2001:db8::1"]


@pytest.mark.parametrize("length", [29, 30])
async def test_twenty_nodes_at_the_same_instant(etcd: Etcd, make: Make, length: int) -> None:
    """flannel.md 12: a lost race is fatal there. With 31 subnets and with 63."""
    etcd.put(f"{PREFIX}/config", SMALL % length)
    nodes = [make(f"n{number}", f"192.0.2.{number}") for number in range(1, 21)]
    leases = await asyncio.gather(*(node.acquire() for node in nodes))
    assert len({lease.subnet for lease in leases}) == 20
    assert set(subnet_keys(etcd)) == {lease.key for lease in leases}
    assert len(etcd.leases()) == 20


async def test_twenty_nodes_and_seven_subnets(etcd: Etcd, make: Make) -> None:
    etcd.put(f"{PREFIX}/config", SMALL % 27)
    nodes = [make(f"n{number}", f"192.0.2.{number}") for number in range(1, 21)]
    found = await asyncio.gather(*(node.acquire() for node in nodes), return_exceptions=True)
    assert len({str(one) for one in found if isinstance(one, Lease)}) == 7
    refused = {str(one) for one in found if isinstance(one, RegistryError)}
    assert len([one for one in found if isinstance(one, RegistryError)]) == 13
    assert refused == {
        "the network 10.5.0.0/24 is exhausted: all 7 subnets (/27) from 10.5.0.32 to 10.5.0.224 are taken, 7 by leases"
        " and 0 by reservations; release one (overlayctl lease release SUBNET), or widen the network"
    }
    assert len(etcd.leases()) == 7, "who got nothing left an etcd lease behind"


async def test_a_race_for_a_subnet_is_lost_and_another_one_is_tried(etcd: Etcd, make: Make) -> None:
    node = make()
    transact, lost = node.registry.client.transact, []

    async def slow(*arguments: Any) -> int | None:
        if not lost:
            key = next(write.key for write in arguments[1:] if "/subnets/" in write.key)
            etcd.put(key, flannels("192.0.2.77"), lease=etcd.grant(100))
            lost.append(key)
        return await transact(*arguments)

    node.registry.client.transact = slow  # type: ignore[method-assign]
    lease = await node.acquire()
    assert lost
    assert key_of(lease) != lost[0]
    assert etcd.get(lost[0]) == flannels("192.0.2.77")


async def test_what_the_watch_brings_during_a_choice_is_not_overwritten(etcd: Etcd, make: Make, tmp_path: Path) -> None:
    """The subnet is chosen, then an etcd lease is waited for, and meanwhile somebody takes that subnet."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "subnet.env").write_text("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\n")
    node, key = make("a"), f"{PREFIX}/subnets/10.5.72.0-24"
    grant, taken = node.registry.client.grant, []

    async def slow(ttl: int) -> int:
        if not taken:
            etcd.put(key, flannels("192.0.2.77"))
            await node.registry._replica.load()
            taken.append(key)
        return await grant(ttl)

    node.registry.client.grant = slow  # type: ignore[method-assign]
    lease = await node.acquire()
    assert taken
    assert str(lease.subnet) != "10.5.72.0/24"
    assert etcd.get(key) == flannels("192.0.2.77")
    assert len(etcd.leases()) == 1


async def test_the_same_node_gets_the_same_subnet_whatever_its_address(etcd: Etcd, make: Make) -> None:
    """flannel.md 13."""
    first = await make(public="192.0.2.1").acquire()
    etcd_lease = etcd.lease_of(key_of(first))
    again = await make(public="192.0.2.1").acquire()
    moved = await make(public="192.0.2.99").acquire()
    assert first.subnets == again.subnets == moved.subnets
    assert (again.public_ip, moved.public_ip) == (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.99"))
    assert list(records(etcd)) == ["192.0.2.99"]
    assert subnet_keys(etcd) == {first.key: flannels("192.0.2.99", first.vtep_mac)}
    assert etcd.leases() == {etcd_lease}, "the same etcd lease lives on, and no other"


async def test_a_restart_writes_nothing_that_other_nodes_would_act_upon(etcd: Etcd, make: Make) -> None:
    lease = await make().acquire()
    await make().acquire()
    assert etcd.version_of(key_of(lease)) == 1


async def test_two_nodes_with_one_public_ip(etcd: Etcd, make: Make) -> None:
    """flannel.md 14. The second one is told, and changes nothing."""
    lease = await make("a").acquire()
    before = etcd.below("/")
    with pytest.raises(RegistryError) as error:
        await make("b").acquire()
    assert str(error.value).startswith("public IP 192.0.2.1 belongs to another node: a (identity ")
    assert str(error.value).endswith(f"overlayctl lease release {lease.subnet}")
    assert etcd.below("/") == before


async def test_two_nodes_with_one_public_ip_at_the_same_instant(etcd: Etcd, make: Make) -> None:
    nodes = [make(f"n{number}", "192.0.2.1") for number in range(8)]
    found = await asyncio.gather(*(node.acquire() for node in nodes), return_exceptions=True)
    (lease,) = [one for one in found if isinstance(one, Lease)]
    assert all("belongs to another node" in str(one) for one in found if one is not lease)
    assert list(subnet_keys(etcd)) == [lease.key]


async def test_what_flannel_left_on_this_host_is_taken_over(etcd: Etcd, make: Make) -> None:
    old = etcd.grant(86400)
    etcd.put(f"{PREFIX}/subnets/10.5.52.0-24", flannels("192.0.2.1"), lease=old)
    lease = await make().acquire()
    assert str(lease.subnet) == "10.5.52.0/24"
    assert etcd.leases() == {old}
    assert subnet_keys(etcd) == {"10.5.52.0-24": flannels("192.0.2.1", lease.vtep_mac)}


async def test_another_ttl_means_another_etcd_lease_and_the_old_one_ends(etcd: Etcd, make: Make) -> None:
    """flannel.md 15: etcd leases leak there."""
    first = await make().acquire()
    old = etcd.lease_of(key_of(first))
    again = await make(subnet_lease_ttl="300s", subnet_lease_renew_margin="30s").acquire()
    (new,) = etcd.leases()
    assert (again.subnets, new == old, etcd.lease_of(key_of(first)) == new) == (first.subnets, False, True)
    assert etcd.time_left(new) <= 300


async def test_a_reservation_is_taken_up_and_stays_one(etcd: Etcd, make: Make) -> None:
    """flannel.md 12: reservations become leases of 24 hours there."""
    etcd.put(f"{PREFIX}/subnets/10.5.52.0-24", '{"PublicIP":"192.0.2.1","PublicIPv6":null}')
    lease = await make().acquire()
    assert (str(lease.subnet), lease.reserved) == ("10.5.52.0/24", True)
    assert subnet_keys(etcd) == {"10.5.52.0-24": flannels("192.0.2.1", lease.vtep_mac)}
    assert (etcd.lease_of(f"{PREFIX}/subnets/10.5.52.0-24"), etcd.leases()) == (0, set())
    assert (await make(public="192.0.2.9").acquire()).subnets == lease.subnets
    assert etcd.lease_of(f"{PREFIX}/subnets/10.5.52.0-24") == 0


async def test_the_subnet_of_an_old_subnet_env(etcd: Etcd, make: Make, tmp_path: Path) -> None:
    for name, subnet in (("a", "10.5.72.1/24"), ("b", "10.5.72.1/24"), ("c", "10.6.1.1/24")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "subnet.env").write_text(f"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={subnet}\n")
    assert str((await make("a", "192.0.2.1").acquire()).subnet) == "10.5.72.0/24"
    assert str((await make("b", "192.0.2.2").acquire()).subnet) != "10.5.72.0/24", "a has it"
    assert (await make("c", "192.0.2.3").acquire()).subnets[0].subnet_of(ip_network("10.5.0.0/16"))  # type: ignore[arg-type]


async def test_a_clean_stop_keeps_the_lease(etcd: Etcd, make: Make) -> None:
    node = await make().run()
    before = etcd.below("/")
    await node.stop()
    assert etcd.below("/") == before


async def test_looking_only_changes_nothing(etcd: Etcd, make: Make) -> None:
    before = etcd.below("/")
    looked = await make(read_only=True).acquire()
    assert (etcd.below("/"), etcd.leases()) == (before, set())
    assert str(looked.subnet).startswith("10.5.")


# --- the network's configuration -------------------------------------------------------------------------------------


async def test_a_configuration_that_is_not_there_yet_is_waited_for(etcd: Etcd, make: Make) -> None:
    etcd.delete(f"{PREFIX}/config")
    clock = Clock()
    node = make(clock=clock)
    with capture_logs() as logs:
        waiting = asyncio.ensure_future(node.acquire())
        await eventually_async(lambda: logs, "it is said")
        etcd.put(f"{PREFIX}/config", CONFIG)
        await eventually_async(lambda: clock.advance(1) or waiting.done(), "it has a lease")
    assert str((await waiting).subnet).startswith("10.5.")
    assert [entry["msg"] for entry in logs if entry["level"] == "error"] == ["waiting for etcd: no lease yet"]
    assert "overlayctl etcd init" in logs[0]["reason"]


async def test_a_configuration_that_makes_no_sense_is_waited_for(etcd: Etcd, make: Make) -> None:
    """It is mended centrally, and no node has to be started again."""
    etcd.put(f"{PREFIX}/config", '{"Network":"10.5.0.0/33"}')
    clock = Clock()
    node = make(clock=clock)
    waiting = asyncio.ensure_future(node.acquire())
    await eventually_async(lambda: node.registry.state().error, "it is said")
    assert (node.registry.state().error or "").startswith(f"{PREFIX}/config: Network: 10.5.0.0/33 ")
    etcd.put(f"{PREFIX}/config", CONFIG)
    await eventually_async(lambda: clock.advance(1) or waiting.done(), "it has a lease")
    assert str((await waiting).subnet).startswith("10.5.")


async def test_an_unknown_key_in_the_configuration_is_named_once(etcd: Etcd, make: Make) -> None:
    etcd.put(f"{PREFIX}/config", CONFIG.replace("{", '{"Comment":"flannel takes this too",', 1))
    node = make()
    with capture_logs() as logs:
        await node.acquire()
        await node.acquire()
    assert [entry["name"] for entry in logs if entry["level"] == "warning"] == ["Comment"]


async def test_a_free_subnet_is_waited_for(etcd: Etcd, make: Make) -> None:
    etcd.put(f"{PREFIX}/config", SMALL % 26)
    others = [f"10.5.0.{base}-26" for base in (64, 128, 192)]
    for number, key in enumerate(others):
        etcd.put(f"{PREFIX}/subnets/{key}", flannels(f"192.0.2.{70 + number}"))
    node = make()
    with pytest.raises(NotYetError, match=r"^the network 10\.5\.0\.0/24 is exhausted: "):
        await node.acquire()
    assert "is exhausted" in (node.registry.state().error or "")
    etcd.delete(f"{PREFIX}/subnets/{others[1]}")
    assert str((await node.acquire()).subnet) == "10.5.0.128/26"


async def test_a_running_node_that_lost_its_subnet_in_a_full_network_waits_for_one(etcd: Etcd, make: Make) -> None:
    etcd.put(f"{PREFIX}/config", SMALL % 26)
    for number, base in enumerate((64, 192)):
        etcd.put(f"{PREFIX}/subnets/10.5.0.{base}-26", flannels(f"192.0.2.{70 + number}"))
    node = await make().run()
    with capture_logs() as logs:
        etcd.put(key_of(node.lease), flannels("192.0.2.66"), lease=etcd.grant(500))
        await eventually_async(lambda: node.registry.state().invalid, "it is said")
        etcd.put(f"{PREFIX}/subnets/10.5.0.64-26", flannels("192.0.2.99"))
        await eventually_async(lambda: "192.0.2.99" in [str(lease.public_ip) for lease in node.table], "it goes on")
    assert [entry["msg"] for entry in logs if entry["level"] == "error"] == [
        "own lease was changed by someone else",
        "own lease is lost; waiting for a free subnet",
    ]
    assert [task.done() for task in node.tasks] == [False] * len(node.tasks)
    etcd.delete(f"{PREFIX}/subnets/10.5.0.192-26")
    await eventually_async(lambda: node.moved, "there is one")
    assert str((await node.acquire()).subnet) == "10.5.0.192/26"
    assert node.registry.state().invalid == {}


async def test_looking_only_does_not_wait(etcd: Etcd, make: Make) -> None:
    etcd.delete(f"{PREFIX}/config")
    with pytest.raises(RegistryError, match="config does not exist; write it"):
        await make(read_only=True).acquire()
    await asyncio.to_thread(etcd.members[0].kill)
    with pytest.raises(RegistryError, match=r"etcd: http://127\.0\.0\.1:.*check etcd\.endpoints"):
        await make(read_only=True).acquire()


def test_a_check_without_etcd_and_without_saved_leases_says_so_in_one_line(tmp_path: Path) -> None:
    config = tmp_path / "overlayd.yaml"
    paths = {"state_dir": tmp_path / "state", "subnet_file": tmp_path / "env", "control_socket": tmp_path / "socket"}
    lines = [f"{key}: {path}" for key, path in paths.items()]
    config.write_text("\n".join(["registry: etcd", "etcd: {endpoints: http://127.0.0.1:1}", *lines, ""]))
    argv = [sys.executable, "-m", "overlayd", "--config", str(config), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert one_line(done.stderr).startswith("overlayd: etcd: http://127.0.0.1:1: ")
    assert done.stderr.endswith("; check etcd.endpoints\n")
    assert list(tmp_path.iterdir()) == [config]


async def test_a_new_configuration_is_gone_over_to(etcd: Etcd, make: Make) -> None:
    node = await make().run()
    assert node.lease is not None
    etcd.put(f"{PREFIX}/config", CONFIG.replace('"VNI":1', '"VNI":7'))
    await eventually_async(lambda: node.moved, "it is told")
    assert node.moved == ["the network's configuration in etcd changed"]
    lease = await node.acquire()
    assert (lease.subnets, lease.vni) == (node.lease.subnets, 7)
    assert json.loads(etcd.get(key_of(lease)) or "")["BackendData"]["VNI"] == 7


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "is not JSON"),
        (
            '{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}',
            "Backend.Type: ipip is a flannel backend that overlayd does not",
        ),
        ('{"Network":"10.99.0.0/16"}', "is not part of it; it takes effect at the next start"),
        (None, "it was deleted; write it again"),
    ],
)
async def test_a_new_configuration_that_cannot_be_gone_over_to(
    etcd: Etcd, make: Make, config: str | None, reason: str
) -> None:
    node = await make().run()
    former = node.lease
    with capture_logs() as logs:
        if config is None:
            etcd.delete(f"{PREFIX}/config")
        else:
            etcd.put(f"{PREFIX}/config", config)
        await eventually_async(lambda: [entry for entry in logs if entry["level"] == "error"], "it is said")
    (entry,) = [entry for entry in logs if entry["level"] == "error"]
    assert entry["msg"] == "new network configuration refused, keeping the old one"
    assert reason in entry["reason"]
    assert await node.acquire() == former, "a reload finds the old one"
    assert node.moved == []


# --- updates ---------------------------------------------------------------------------------------------------------


async def test_leases_come_change_and_go(etcd: Etcd, make: Make) -> None:
    node = await make().run()
    own = str(node.lease and node.lease.subnet)
    etcd.put(f"{PREFIX}/subnets/10.5.12.0-24", flannels("192.0.2.52"))
    await eventually_async(lambda: "10.5.12.0/24" in node.subnets, "a lease comes")
    etcd.put(f"{PREFIX}/subnets/10.5.12.0-24", flannels("192.0.2.53"))
    await eventually_async(lambda: "192.0.2.53" in [str(lease.public_ip) for lease in node.table], "it changes")
    etcd.delete(f"{PREFIX}/subnets/10.5.12.0-24")
    await eventually_async(lambda: node.subnets == [own], "it goes")


async def test_all_that_happened_between_two_looks_is_one_update(etcd: Etcd, make: Make) -> None:
    node = make()
    await node.acquire()
    updates = node.registry.updates()
    assert isinstance(await anext(updates), Snapshot)
    node.tasks = [asyncio.ensure_future(one) for one in node.registry.tasks().values()]
    own = node.lease.key if node.lease is not None else ""
    keys = [key for key in (f"10.5.{number}.0-24" for number in range(100)) if key != own]
    one = node.registry.client
    await one.transact([], *(Put(f"{PREFIX}/subnets/{key}", flannels("192.0.2.9")) for key in keys))
    await one.transact([], Delete(f"{PREFIX}/subnets/{keys[0]}"), Put(f"{PREFIX}/subnets/{keys[1]}", "bad"))
    await eventually_async(lambda: len(node.registry.view.invalid) == 1, "everything has come")
    update = await anext(updates)
    assert isinstance(update, LeaseChanges)
    events = node.table.apply(update.leases)
    assert sorted(event.lease.key for event in events) == sorted(keys[2:])
    assert {event.kind for event in events} == {"added"}


async def test_one_bad_key_loses_nobody_elses_and_is_said_once(etcd: Etcd, make: Make) -> None:
    with capture_logs() as logs:
        node = await make().run()
        for text in ("{", "[]", "{"):
            etcd.put(f"{PREFIX}/subnets/10.5.9.0-24", text)
        etcd.put(f"{PREFIX}/subnets/10.5.12.0-24", flannels("192.0.2.52"))
        await eventually_async(lambda: "10.5.12.0/24" in node.subnets, "the other one has come")
    assert list(node.registry.state().invalid) == [f"{PREFIX}/subnets/10.5.9.0-24"]
    said = [entry for entry in logs if entry["msg"] == "invalid entry in etcd ignored"]
    assert [entry["key"] for entry in said] == [f"{PREFIX}/subnets/10.5.9.0-24"]


# --- keep ------------------------------------------------------------------------------------------------------------


async def test_the_lease_is_renewed_when_the_margin_is_reached_and_not_before(etcd: Etcd, make: Make) -> None:
    clock, renewed = Clock(), []
    node = make(clock=clock, subnet_lease_ttl="1000s", subnet_lease_renew_margin="400s")
    keep_alive = node.registry.client.keep_alive

    async def counted(lease: int) -> int:
        renewed.append(clock.time)
        return await keep_alive(lease)

    node.registry.client.keep_alive = counted  # type: ignore[method-assign]
    await node.run()
    lease = etcd.lease_of(key_of(node.lease))
    for due in (600, 1200):
        while clock.time < due - 1:
            clock.advance(1)
            await settled()
        assert len(renewed) == due // 600 - 1, "not before"
        await eventually_async(lambda: clock.advance(0.5) or len(renewed) == due // 600, "renewed")  # noqa: B023
        await eventually_async(lambda: node.registry._etcd_lease.expires > clock.time + 900, "the answer has come")
    assert [round(time, -1) for time in renewed] == [600, 1200]
    assert etcd.leases() == {lease}, "one etcd lease, the same one"
    assert etcd.version_of(key_of(node.lease)) == 1, "a renewal writes no key"


async def test_a_renewal_that_fails_is_tried_again(etcd: Etcd, make: Make) -> None:
    clock, tries = Clock(), []
    node = make(clock=clock, subnet_lease_ttl="1000s", subnet_lease_renew_margin="400s")
    await node.run()

    async def flaky(lease: int) -> int:
        tries.append(lease)
        return await EtcdClient.keep_alive(node.registry.client, lease) if len(tries) > 3 else await refuse()

    async def refuse() -> int:
        return await EtcdClient(["http://127.0.0.1:1"]).keep_alive(7)

    node.registry.client.keep_alive = flaky  # type: ignore[method-assign]
    clock.advance(601)
    await eventually_async(lambda: clock.advance(1) or len(tries) == 4, "it is renewed in the end")


async def test_the_etcd_lease_is_gone_and_everything_is_written_anew(etcd: Etcd, make: Make) -> None:
    """flannel.md 16, after an outage longer than the TTL."""
    node = await make().run()
    old = etcd.lease_of(key_of(node.lease))
    etcd.revoke(old)
    await eventually_async(lambda: subnet_keys(etcd) and records(etcd), "taken back")
    assert list(subnet_keys(etcd)) == [node.lease and node.lease.key]
    (new,) = etcd.leases()
    assert new != old
    assert node.moved == []


# --- own keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["subnets", "overlayd", ""])
async def test_own_keys_that_somebody_deletes_are_taken_back(etcd: Etcd, make: Make, which: str) -> None:
    """flannel.md 16: flannel exits."""
    node = await make().run()
    lease, session = etcd.lease_of(key_of(node.lease)), records(etcd)["192.0.2.1"]["session"]
    config = etcd.get(f"{PREFIX}/config")
    before = etcd.below(f"{PREFIX}/")
    etcd.ctl("del", "--prefix", f"{PREFIX}/{which}")
    if not which:
        etcd.put(f"{PREFIX}/config", config or "")
    await eventually_async(lambda: etcd.below(f"{PREFIX}/") == before, "all is as it was")
    assert records(etcd)["192.0.2.1"]["session"] == session
    assert etcd.leases() == {lease}
    assert node.moved == []


async def test_own_key_overwritten_by_hand_is_put_right(etcd: Etcd, make: Make) -> None:
    node = await make().run()
    before = etcd.below(f"{PREFIX}/")
    for value in ("{", flannels("192.0.2.1", "06:00:00:00:00:99")):
        etcd.put(key_of(node.lease), value, lease=etcd.lease_of(key_of(node.lease)))
        await eventually_async(lambda: etcd.below(f"{PREFIX}/") == before, "all is as it was")


async def test_own_subnet_that_another_node_took_means_a_new_lease(etcd: Etcd, make: Make) -> None:
    with capture_logs() as logs:
        node = await make().run()
        former = node.lease
        other = etcd.grant(500)
        etcd.put(key_of(former), flannels("192.0.2.66"), lease=other)
        await eventually_async(lambda: node.moved, "it is told")
    assert "is held by 10.5." in node.moved[0]
    lease = await node.acquire()
    assert lease.subnet != (former and former.subnet)
    assert etcd.get(key_of(former)) == flannels("192.0.2.66")
    assert records(etcd)["192.0.2.1"]["subnet"] == lease.key
    assert len(etcd.leases()) == 2
    assert "own lease was changed by someone else" in [entry["msg"] for entry in logs]


async def test_a_lease_made_a_reservation_by_hand_stays_one(etcd: Etcd, make: Make) -> None:
    node = await make().run()
    etcd.put(key_of(node.lease), etcd.get(key_of(node.lease)) or "")
    await eventually_async(lambda: [lease.reserved for lease in node.table] == [True], "it is known")
    assert etcd.lease_of(key_of(node.lease)) == 0
    await node.stop()
    assert (await make().acquire()).reserved
    assert etcd.lease_of(key_of(node.lease)) == 0


async def test_a_clone_stops_and_the_first_node_goes_on(etcd: Etcd, make: Make) -> None:
    """flannel.md 14: a machine copied with its disk."""
    first = await make("a", "192.0.2.1").run()
    with capture_logs() as logs:
        clone = make("a", "192.0.2.2")
        await clone.acquire()
        clone.tasks = [asyncio.ensure_future(one) for one in clone.registry.tasks().values()]
        done, _ = await asyncio.wait(clone.tasks, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        (error,) = [task.exception() for task in done]
        assert isinstance(error, RegistryError)
        assert "is its clone. Remove node-id from the state_dir of the clone" in str(error)
        await eventually_async(lambda: list(records(etcd)) == ["192.0.2.1"], "the first node has its lease back")
    assert "a clone runs with this node's identity; it will stop" in [e["msg"] for e in logs]
    assert subnet_keys(etcd) == {
        first.lease.key: flannels("192.0.2.1", first.lease.vtep_mac)  # type: ignore[union-attr]
    }
    assert [task.done() for task in first.tasks] == [False] * 4


# --- outages ---------------------------------------------------------------------------------------------------------


async def test_etcd_lost_and_back_is_one_line_each(etcd: Etcd, make: Make) -> None:
    """flannel.md 15."""
    node = await make().run()
    with capture_logs() as logs:
        await asyncio.to_thread(etcd.members[0].kill)
        await eventually_async(lambda: not node.registry.state().connected, "it is noticed")
        state = node.registry.state()
        assert state.error
        assert [str(lease.subnet) for lease in node.registry.leases(node.given)] == node.subnets
        await asyncio.sleep(0.2)  # some more attempts
        etcd.members[0].start()  # here: it ends with the thread that starts it
        etcd.put(f"{PREFIX}/subnets/10.5.12.0-24", flannels("192.0.2.52"))
        await eventually_async(lambda: "10.5.12.0/24" in node.subnets, "what happened since is known")
        assert node.registry.state().connected
    assert [entry["msg"] for entry in logs if entry["level"] in ("error", "info")] == [
        "etcd is unreachable; keeping the last known leases",
        "etcd is reachable again",
    ]


async def test_a_member_that_hangs_is_noticed(etcd: Etcd, make: Make) -> None:
    node = await make(heartbeat=0.05).run()
    node.registry.client._timeout = 0.2
    etcd.members[0].pause()
    await eventually_async(lambda: not node.registry.state().connected, "it is noticed")
    assert "no answer in time" in (node.registry.state().error or "")
    etcd.members[0].resume()
    await eventually_async(lambda: node.registry.state().connected, "it is back")


async def test_a_compaction_during_an_outage(etcd: Etcd, make: Make) -> None:
    """flannel.md 15: peers are lost there."""
    node = await make(heartbeat=0.05).run()
    node.registry.client._timeout = 0.2
    node.registry.client.endpoints = ("http://127.0.0.1:1",)
    node.registry.client.endpoint = "http://127.0.0.1:1"
    await asyncio.to_thread(etcd.members[0].kill)
    await eventually_async(lambda: not node.registry.state().connected, "it is noticed")
    etcd.members[0].start()  # here: it ends with the thread that starts it
    for number in range(20, 30):
        etcd.put(f"{PREFIX}/subnets/10.5.{number}.0-24", flannels(f"192.0.2.{number}"))
    etcd.delete(f"{PREFIX}/subnets/10.5.25.0-24")
    etcd.compact()
    node.registry.client.endpoints = tuple(etcd.endpoints)
    node.registry.client.endpoint = etcd.endpoints[0]
    own = str(node.lease and node.lease.subnet)
    wanted = sorted([own, *(f"10.5.{number}.0/24" for number in range(20, 30) if number != 25)])
    await eventually_async(lambda: node.subnets == wanted, "everything is known")


def wipe(etcd: Etcd) -> Path:
    """Stop the member and move its data away; where they are now."""
    etcd.members[0].kill()
    data = etcd.directory / "etcd.data"
    return data.rename(etcd.directory / "former.data")


async def test_etcd_comes_back_without_its_data(etcd: Etcd, make: Make) -> None:
    """Its revision is lower than the one watched from: no event would ever come."""
    etcd.put(f"{PREFIX}/subnets/10.5.12.0-24", flannels("192.0.2.52"))
    node = await make().run()
    before = etcd.below(f"{PREFIX}/")
    with capture_logs() as logs:
        shutil.rmtree(await asyncio.to_thread(wipe, etcd))
        etcd.members[0].start()  # here: it ends with the thread that starts it
        await eventually_async(lambda: key_of(node.lease) in etcd.below("/"), "the own lease is back")
        etcd.put(f"{PREFIX}/config", CONFIG)
        own = str(node.lease and node.lease.subnet)
        await eventually_async(lambda: node.subnets == [own], "the other lease is gone")
    assert etcd.below(f"{PREFIX}/").keys() == before.keys() - {f"{PREFIX}/subnets/10.5.12.0-24"}
    assert etcd.leases() == {etcd.lease_of(key_of(node.lease))}
    lost = [entry["reason"] for entry in logs if entry["msg"] == "etcd has lost data: reading all leases again"]
    assert len(lost) == 1
    assert "its revision went back from " in lost[0]
    assert node.moved == []


async def test_etcd_comes_back_from_an_old_backup(etcd: Etcd, make: Make) -> None:
    """Its revision is ahead again by the time that the node reaches it: the own key is what is missing."""
    await asyncio.to_thread(etcd.members[0].stop)
    shutil.copytree(etcd.directory / "etcd.data", etcd.directory / "backup.data")
    etcd.members[0].start()  # here: it ends with the thread that starts it
    node = await make(heartbeat=0.05).run()
    node.registry.client.endpoints, node.registry.client.endpoint = ("http://127.0.0.1:1",), "http://127.0.0.1:1"
    shutil.rmtree(await asyncio.to_thread(wipe, etcd))
    (etcd.directory / "backup.data").rename(etcd.directory / "etcd.data")
    etcd.members[0].start()  # here: it ends with the thread that starts it
    assert subnet_keys(etcd) == {}
    while etcd.revision() <= node.registry.view.revision:
        etcd.put(f"{PREFIX}/subnets/10.5.12.0-24", flannels("192.0.2.52"))
    etcd.put(f"{PREFIX}/subnets/10.5.13.0-24", flannels("192.0.2.53"))
    node.registry.client.endpoints, node.registry.client.endpoint = tuple(etcd.endpoints), etcd.endpoints[0]
    wanted = sorted([str(node.lease and node.lease.subnet), "10.5.12.0/24", "10.5.13.0/24"])
    await eventually_async(lambda: node.subnets == wanted, "all leases are known")
    await eventually_async(lambda: key_of(node.lease) in etcd.below("/"), "the own lease is back")
    assert node.moved == []


async def test_the_own_subnet_was_taken_while_etcd_had_lost_it(etcd: Etcd, make: Make) -> None:
    node = await make().run()
    former = key_of(node.lease)
    node.registry.client.endpoints, node.registry.client.endpoint = ("http://127.0.0.1:1",), "http://127.0.0.1:1"
    shutil.rmtree(await asyncio.to_thread(wipe, etcd))
    etcd.members[0].start()  # here: it ends with the thread that starts it
    etcd.put(f"{PREFIX}/config", CONFIG)
    etcd.put(former, flannels("192.0.2.66"), lease=etcd.grant(500))
    node.registry.client.endpoints, node.registry.client.endpoint = tuple(etcd.endpoints), etcd.endpoints[0]
    await eventually_async(lambda: node.moved, "it is told")
    assert key_of(await node.acquire()) != former
    assert etcd.get(former) == flannels("192.0.2.66")


async def test_a_start_without_etcd_on_the_leases_last_known(etcd: Etcd, make: Make) -> None:
    """flannel.md 15: it blocks, without a word."""
    etcd.put(f"{PREFIX}/subnets/10.5.12.0-24", flannels("192.0.2.52"))
    first = await make().run()
    await first.stop()
    await asyncio.to_thread(etcd.members[0].kill)
    with capture_logs() as logs:
        node = make()
        assert (await node.acquire()).subnets == (first.lease and first.lease.subnets)
    assert [entry["msg"] for entry in logs if entry["level"] == "warning"] == [
        "etcd is unreachable: using the last known leases"
    ]
    assert node.registry.state().stale is not None
    assert not node.registry.state().connected
    assert sorted(str(lease.subnet) for lease in node.registry.leases(node.given)) == first.subnets
    node.tasks = [asyncio.ensure_future(one) for one in (*node.registry.tasks().values(), node._follow())]
    etcd.members[0].start()  # here: it ends with the thread that starts it
    etcd.put(f"{PREFIX}/subnets/10.5.13.0-24", flannels("192.0.2.53"))
    await eventually_async(lambda: "10.5.13.0/24" in node.subnets, "it catches up")
    await eventually_async(lambda: node.registry.state().connected, "and says so")
    assert (node.registry.state().stale, node.moved) == (None, [])
    assert [task.done() for task in node.tasks] == [False] * 4


async def test_a_stale_start_whose_lease_is_another_nodes_by_now(etcd: Etcd, make: Make) -> None:
    first = await make().run()
    await first.stop()
    etcd.put(key_of(first.lease), flannels("192.0.2.66"))
    etcd.delete(f"{PREFIX}/overlayd/hosts/192.0.2.1")
    await asyncio.to_thread(etcd.members[0].kill)
    node = make()
    assert (await node.acquire()).subnets == (first.lease and first.lease.subnets)
    node.tasks = [asyncio.ensure_future(one) for one in (*node.registry.tasks().values(), node._follow())]
    etcd.members[0].start()  # here: it ends with the thread that starts it
    await eventually_async(lambda: node.moved, "it is told")
    assert (await node.acquire()).subnets != (first.lease and first.lease.subnets)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"prefix":"/coreos.com/network"}', '{"prefix":"/coreos.com/network","keys":[7]}']
)
async def test_saved_leases_that_make_no_sense_are_not_used(etcd: Etcd, make: Make, tmp_path: Path, text: str) -> None:
    await asyncio.to_thread(etcd.members[0].kill)
    node, clock = make(), Clock()
    node.registry._sleep = clock.sleep
    node.registry._store.save(text)
    with capture_logs() as logs:
        waiting = asyncio.ensure_future(node.acquire())
        await eventually_async(lambda: [entry for entry in logs if entry["level"] == "error"], "it waits, and says so")
        assert not waiting.done()
        etcd.members[0].start()  # here: it ends with the thread that starts it
        await eventually_async(lambda: clock.advance(1) or waiting.done(), "it has a lease")
    assert str((await waiting).subnet).startswith("10.5.")


# --- the operator ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def client(etcd: Etcd) -> AsyncIterator[EtcdClient]:
    made = EtcdClient(etcd.endpoints)
    yield made
    await made.close()


async def test_a_configuration_is_written_and_not_overwritten(etcd: Etcd, client: EtcdClient) -> None:
    assert await admin.write_config(client, PREFIX, CONFIG, SETTINGS, force=False) == f"{PREFIX}/config = {CONFIG}"
    same = '{"network":"10.5.0.0/16","subnetMin":"10.5.40.0","Backend":{"Type":"vxlan"}}'
    assert "has this configuration already" in await admin.write_config(client, PREFIX, same, SETTINGS, force=False)
    assert etcd.get(f"{PREFIX}/config") == CONFIG
    other = CONFIG.replace("10.5", "10.6")
    with pytest.raises(RegistryError, match=r"a different configuration is already at .*; use --force to replace it"):
        await admin.write_config(client, PREFIX, other, SETTINGS, force=False)
    assert etcd.get(f"{PREFIX}/config") == CONFIG
    await admin.write_config(client, PREFIX, other, SETTINGS, force=True)
    assert etcd.get(f"{PREFIX}/config") == other


async def test_a_lease_is_made_a_reservation_and_released(etcd: Etcd, make: Make, client: EtcdClient) -> None:
    node = await make().run()
    subnet = node.lease.subnets[0]  # type: ignore[union-attr]
    assert "is reserved: it never expires" in await admin.reserve(client, PREFIX, [subnet], [], SETTINGS)
    await eventually_async(lambda: [lease.reserved for lease in node.table] == [True], "the node knows")
    assert (etcd.lease_of(key_of(node.lease)), etcd.lease_of(f"{PREFIX}/overlayd/hosts/192.0.2.1")) == (0, 0)
    await eventually_async(lambda: etcd.leases() == set(), "the etcd lease that is not needed any more ends")
    assert "is a reservation already" in await admin.reserve(client, PREFIX, [subnet], [], SETTINGS)
    await node.stop()
    assert "is released" in await admin.release(client, PREFIX, [subnet], None, SETTINGS)
    assert (subnet_keys(etcd), records(etcd)) == ({}, {})


async def test_a_free_subnet_is_reserved_for_a_host_or_for_nobody(etcd: Etcd, make: Make, client: EtcdClient) -> None:
    one, other = ip_network("10.5.52.0/24"), ip_network("10.5.53.0/24")
    make()
    await admin.reserve(client, PREFIX, [one], [IPv4Address("192.0.2.1")], SETTINGS)
    await admin.reserve(client, PREFIX, [other], [], SETTINGS)
    assert subnet_keys(etcd) == {
        "10.5.52.0-24": '{"PublicIP":"192.0.2.1","PublicIPv6":null}',
        "10.5.53.0-24": '{"PublicIP":"0.0.0.0","PublicIPv6":null}',
    }
    assert (await make("a", "192.0.2.1").acquire()).subnets == (one,)
    with pytest.raises(
        RegistryError, match=r"10\.5\.52\.0/24 is leased to 10\.5\.52\.0/24@192\.0\.2\.1; release it first"
    ):
        await admin.reserve(client, PREFIX, [one], [IPv4Address("192.0.2.7")], SETTINGS)


@pytest.mark.parametrize(
    ("subnets", "text"),
    [
        (["10.6.1.0/24"], "10.6.1.0/24 lies outside the network 10.5.0.0/16"),
        (["10.5.1.0/25"], "10.5.1.0/25 has prefix length 25; the network's subnet_len is 24"),
        (["10.5.1.0/24", "fc00::/64"], "a lease of this network has a subnet of 10.5.0.0/16"),
    ],
)
async def test_what_cannot_be_reserved(
    etcd: Etcd, make: Make, client: EtcdClient, subnets: list[str], text: str
) -> None:
    make()
    with pytest.raises(RegistryError, match=text):
        await admin.reserve(client, PREFIX, [ip_network(one) for one in subnets], [], SETTINGS)
    assert subnet_keys(etcd) == {}


async def test_a_lease_that_flannel_took_over_is_flannels(etcd: Etcd, make: Make, client: EtcdClient) -> None:
    """overlayd is stopped and flanneld started on its host: flannel finds the lease by its address and binds it to an
    etcd lease of its own; our record stays on the former one."""
    other = await make("b", "192.0.2.2").run()
    node = await make("a", "192.0.2.1").run()
    await eventually_async(lambda: len(other.subnets) == 2, "the node is known")
    assert sorted(lease.probe_port or 0 for lease in other.table) == [8286, 8286]
    await node.stop()
    etcd.put(key_of(node.lease), flannels("192.0.2.1"), lease=etcd.grant(500))
    await eventually_async(lambda: sorted(lease.probe_port or 0 for lease in other.table) == [0, 8286], "never probed")
    assert [held.host for held in other.registry.view.held.values() if held.lease.subnets == node.lease.subnets] == [
        None
    ]
    text = await admin.release(client, PREFIX, [], node.registry._holder.id, SETTINGS)
    assert text.startswith("overlayd's record of this host is deleted; ")
    assert text.endswith("@192.0.2.1 belongs to another daemon (flanneld?) and stays")
    assert etcd.get(key_of(node.lease)) == flannels("192.0.2.1")
    assert list(records(etcd)) == ["192.0.2.2"]
    with pytest.raises(RegistryError, match="this host has no lease"):
        await admin.release(client, PREFIX, [], node.registry._holder.id, SETTINGS)
    back = await make("a", "192.0.2.1").acquire()
    assert back.subnets == node.lease.subnets, "overlayd started again takes the lease over"


async def test_a_lease_bound_to_another_etcd_lease_takes_our_record_along(etcd: Etcd, make: Make) -> None:
    node = await make().run()
    for bound in (etcd.grant(500), 0):
        etcd.put(key_of(node.lease), etcd.get(key_of(node.lease)) or "", lease=bound)
        await eventually_async(lambda: etcd.lease_of(f"{PREFIX}/overlayd/hosts/192.0.2.1") == bound, "it is")  # noqa: B023
        await eventually_async(lambda: etcd.leases() == ({bound} - {0}), "the other one ends")  # noqa: B023


async def test_a_lease_is_given_up_with_its_etcd_lease(
    etcd: Etcd, make: Make, client: EtcdClient, tmp_path: Path
) -> None:
    await make("a", "192.0.2.1").acquire()
    other = await make("b", "192.0.2.2").acquire()
    await admin.release(client, PREFIX, [], StateDir(tmp_path / "a" / "state", tmp_path / "none").node_id(), SETTINGS)
    assert list(subnet_keys(etcd)) == [other.key]
    assert etcd.leases() == {etcd.lease_of(key_of(other))}
    with pytest.raises(RegistryError, match="this host has no lease"):
        await admin.release(client, PREFIX, [], "nobody", SETTINGS)
    with pytest.raises(RegistryError, match=r"10\.5\.9\.0/24 is not leased"):
        await admin.release(client, PREFIX, [ip_network("10.5.9.0/24")], None, SETTINGS)
