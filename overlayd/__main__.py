"""`python -m overlayd` is `overlayd`."""

import sys

from overlayd.cli.start import main

sys.exit(main())
