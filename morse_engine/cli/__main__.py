"""`python -m morse_engine.cli`."""

import sys

from . import main

sys.exit(main())
