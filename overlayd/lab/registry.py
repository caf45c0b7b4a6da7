"""The etcd of a lab: members on the underlay, the network's configuration in it, and how hosts use it.

1. describe   members, certificates and processes, as the state on disk knows them
2. start      certificates, processes, PREFIX/config, and users where the lab is a secure one
3. hosts      each has `registry: etcd` and nothing about the network, which it reads from etcd; a subnet.env, as of an
              earlier run, requests the subnet that the lab has planned its containers in
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from overlayd.core.settings import values
from overlayd.core.settings.model import Settings
from overlayd.lab.etcd import Etcd
from overlayd.lab.etcd_member import Endpoint
from overlayd.lab.etcdctl import PREFIX
from overlayd.lab.namespace import Echo, Namespace
from overlayd.lab.spec import LabSpec, merged, plan_etcd, settings_of
from overlayd.lab.state import LabState

_FROM_ETCD = (
    *("mode", "vxlan", "network", "subnet_len", "subnet_min", "subnet_max"),
    *("ipv6_network", "ipv6_subnet_len", "ipv6_subnet_min", "ipv6_subnet_max"),
)


def describe(state: LabState, echo: Echo) -> Etcd | None:
    """The lab's etcd, which may be running; None in a lab with a static table."""
    members = plan_etcd(state.spec)
    if not members:
        return None

    def remember() -> None:
        state.etcd = {one.name: one.process for one in etcd.members if one.process is not None}
        state.save()

    etcd = Etcd(state.directory / "etcd", survives=True, started=remember)
    for one in members:
        member = etcd.add(one.name, Endpoint(one.underlay[0].ip), Namespace(one.name, one.namespace, echo))
        member.process = state.etcd.get(one.name)
    if state.spec.etcd_secure:
        etcd.use_tls(make=False)
        etcd.auth = True
    return etcd


def start(etcd: Etcd, spec: LabSpec) -> None:
    """Start the members and write what the hosts' daemons expect to find. Raises LabError."""
    if spec.etcd_secure:
        etcd.use_tls()
    etcd.auth = False
    etcd.start()
    etcd.put(f"{PREFIX}/config", network_config(spec))
    if spec.etcd_secure:
        etcd.enable_auth()


def network_config(spec: LabSpec) -> dict[str, Any]:
    """The value of PREFIX/config, in flannel's form (flannel, pkg/subnet/config.go). Raises LabError."""
    settings = settings_of(spec)
    found: dict[str, Any] = {}
    for family, prefix, own in ((4, "", "IPv4"), (6, "IPv6", "IPv6")):
        stem = "ipv6_" if family == 6 else ""
        keys = {"Network": "network", "SubnetLen": "subnet_len", "SubnetMin": "subnet_min", "SubnetMax": "subnet_max"}
        for key, name in keys.items():
            value = getattr(settings, stem + name)
            if value is not None:
                found[prefix + key] = value if isinstance(value, int) else str(value)
        found[f"Enable{own}"] = prefix + "Network" in found
    return {**found, "Backend": _backend(spec, settings)}


def _backend(spec: LabSpec, settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {"Type": settings.mode}
    given = {option: values.plain(getattr(settings.section, field)) for option, field in settings.spec.options}
    return found | {option: value for option, value in given.items() if value is not None}


def host_configuration(config: Mapping[str, Any], etcd: Etcd) -> dict[str, Any]:
    """A host's configuration file: that of a host with a static table, less what etcd says."""
    kept = {key: value for key, value in config.items() if key not in _FROM_ETCD}
    if "udp" in kept:
        kept["udp"] = {key: value for key, value in kept["udp"].items() if key != "port"}  # which engine is the host's
    return merged({"registry": "etcd", "etcd": etcd.settings()}, kept)
