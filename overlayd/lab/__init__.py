"""Hosts in network namespaces here, each with a real overlayd: for tests, the demo, benchmarks and people."""

from overlayd.lab.host import Container, Host, wait_ready
from overlayd.lab.lab import Lab, hosts, reap
from overlayd.lab.namespace import Namespace
from overlayd.lab.spec import LabError, LabSpec, merged

__all__ = ["Container", "Host", "Lab", "LabError", "LabSpec", "Namespace", "hosts", "merged", "reap", "wait_ready"]
