"""A host of a lab that runs Debian's wireguard-go in place of overlayd: the protocol by somebody else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from overlayd.core.address import Address
from overlayd.lab import Host
from support.waiting import eventually

DEVICE = "wg0"


class WireguardGo:
    """Its device `wg0` has the place of the host's overlay. The control socket is in the host's directory."""

    def __init__(self, host: Host, runtime: Path) -> None:
        self.host, self._runtime = host, runtime

    def wg(self, *arguments: str) -> str:
        """What wg(8) prints; /run is the device's own, as its socket is named by the device alone."""
        script = f'mount --bind {self._runtime} /run && exec wg "$@"'
        return self.host.run("unshare", "--mount", "sh", "-c", script, "wg", *arguments).stdout

    def peer(self, public_key: str, endpoint: Address, port: int, *subnets: str, psk: str | None = None) -> None:
        """Take a peer in, with routes to its subnets."""
        where = f"[{endpoint}]:{port}" if endpoint.version == 6 else f"{endpoint}:{port}"
        more: tuple[str, ...] = ()
        if psk is not None:
            path = self._runtime / "psk"
            path.write_text(psk)
            more = ("preshared-key", "/run/psk")
        self.wg("set", DEVICE, "peer", public_key, *more, "endpoint", where, "allowed-ips", ",".join(subnets))
        for subnet in subnets:
            self.host.run("ip", "route", "replace", subnet, "dev", DEVICE)

    @property
    def port(self) -> int:
        """Its UDP port."""
        return int(self.wg("show", DEVICE, "listen-port"))

    def show(self, what: str) -> list[str]:
        """`wg show wg0 WHAT` of its one peer: endpoints, latest-handshakes, transfer, without the key."""
        return self.wg("show", DEVICE, what).split()[1:]


@contextmanager
def wireguard_go(host: Host, key_file: Path, port: int) -> Iterator[WireguardGo]:
    """Run it in the host's namespace, with that private key."""
    if not all(map(shutil.which, ("wireguard-go", "wg"))):
        if os.environ.get("OVERLAYD_REQUIRE_PRIVILEGED") == "1":
            pytest.fail("needs wireguard-go: apt install wireguard-go wireguard-tools")
        pytest.skip("needs wireguard-go: apt install wireguard-go wireguard-tools")
    runtime = host.directory / "run"
    runtime.mkdir(parents=True)
    (runtime / "key").write_bytes(key_file.read_bytes())
    script = f"mount --bind {runtime} /run && exec wireguard-go --foreground {DEVICE}"
    process = host.popen("unshare", "--mount", "sh", "-c", script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        made = WireguardGo(host, runtime)
        eventually((runtime / "wireguard" / f"{DEVICE}.sock").exists, "wireguard-go is up")
        made.wg("set", DEVICE, "private-key", "/run/key", "listen-port", str(port))
        host.run("ip", "link", "set", DEVICE, "mtu", "1420", "up")
        yield made
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()
