"""The data paths between containers on two hosts, in turn: `overlayctl bench` with the most important metrics.

sudo .venv/bin/python benchmarks/datapath.py [--rounds 5] [--seconds 2] [--scenarios vxlan,udp-native] [--frames wire]
"""

from __future__ import annotations

import sys

from overlayd.cli.overlayctl import main

if __name__ == "__main__":
    sys.exit(main(["bench", "--metrics", "tcp1,tcp4,udp64,rr", *sys.argv[1:]]))
