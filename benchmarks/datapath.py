"""The ways between containers on two hosts, in turns: `overlayctl bench` with the figures that tell most.

sudo .venv/bin/python benchmarks/datapath.py [--rounds 5] [--seconds 2] [--ways vxlan,udp-native] [--frames 1500]
"""

from __future__ import annotations

import sys

from overlayd.cli.overlayctl import main

if __name__ == "__main__":
    sys.exit(main(["bench", "--metrics", "tcp1,tcp4,udp64,rr", *sys.argv[1:]]))
