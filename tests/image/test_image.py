"""The container image, built by `make image`, run by podman: `--check`, and a daemon that carries packets.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1: podman] eth0 192.0.2.1 ==== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlayd import __version__
from overlayd.lab import Host, hosts
from support.waiting import eventually

ROOT = Path(__file__).parents[2]
IMAGE = f"localhost/overlayd:{__version__}"
START = 60.0  # seconds until a container runs
# As README and Containerfile have it, and what podman needs inside a machine that is a container itself
AS_DOCUMENTED = (
    "--network=host",
    "--cap-drop=all",
    "--cap-add=NET_ADMIN",
    "--device=/dev/net/tun",
    "--security-opt=unmask=/proc/sys",
)
HERE = ("--runtime=runc", "--cgroup-manager=cgroupfs")

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def environment(privileged: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of podman and buildah, with a storage that goes with the test; the image is in it."""
    place = tmp_path_factory.mktemp("containers")
    (place / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{place}/storage"\nrunroot = "{place}/run"\n'
    )
    (place / "containers.conf").write_text('[containers]\ndefault_ulimits = ["nofile=1024:20000", "nproc=4096:4096"]\n')
    made = {
        **os.environ,
        "CONTAINERS_STORAGE_CONF": f"{place}/storage.conf",
        "CONTAINERS_CONF": f"{place}/containers.conf",
    }
    command = ["make", "-C", str(ROOT), "image", f"DIST={place}"]
    done = subprocess.run(command, env=made, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert (place / f"overlayd-{__version__}.image.tar").exists()
    yield made
    subprocess.run(["podman", "rm", "--all", "--force"], env=made, capture_output=True)
    subprocess.run(["podman", "rmi", "--all", "--force"], env=made, capture_output=True)


def podman(
    host: Host, environment: dict[str, str], *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run podman in the host's network; `ip netns exec` would hide the cgroups."""
    inside = ["nsenter", f"--net=/run/netns/{host.namespace}", "podman", *HERE, *arguments]
    done = subprocess.run(inside, env=environment, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done


@pytest.mark.parametrize("mode", ["udp", "vxlan"])
def test_the_image_carries_packets(environment: dict[str, str], mode: str) -> None:
    with hosts(2, mode=mode, start=False) as (a, b):
        b.start()
        lab = a.directory.parent  # the lease table is beside the hosts
        run = ("run", *AS_DOCUMENTED, f"--volume={lab}:{lab}")
        daemon = (IMAGE, "--config", str(a.config_path))
        assert "would do\n" in podman(a, environment, *run, "--rm", *daemon, "--check").stdout
        podman(a, environment, *run, "--detach", "--name", mode, *daemon)
        try:
            eventually(lambda: a.container(0).ping(b.container(0).address()), "containers talk", timeout=START)
            asked = podman(a, environment, "exec", mode, "overlayctl", "status", "--socket", str(a.socket_path))
            assert "10.1.1.0/24" in asked.stdout
            podman(a, environment, "stop", mode)
            podman(a, environment, *run, "--rm", *daemon, "--cleanup")
            assert a.run("ip", "route", "show", "proto", "178").stdout == ""
        finally:
            print(podman(a, environment, "logs", mode, check=False).stderr)
            podman(a, environment, "rm", "--force", mode)
