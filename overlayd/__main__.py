"""`python -m overlayd` is `overlayd`."""

import sys

from overlayd.cli.overlayd import main

sys.exit(main())
