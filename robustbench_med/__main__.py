"""``python -m robustbench_med`` is ``robmed``."""

import sys

from robustbench_med.cli import main

sys.exit(main())
