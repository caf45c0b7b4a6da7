"""Defaults that programs need which read no configuration, such as `overlayctl status`."""

from __future__ import annotations

CONTROL_SOCKET = "/run/overlayd/overlayd.sock"
SUBNET_FILE = "/run/flannel/subnet.env"
