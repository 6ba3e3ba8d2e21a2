"""``python -m sapling``."""

import sys

from sapling.cli import main

sys.exit(main())
