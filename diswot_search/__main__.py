"""`python -m diswot_search` is `diswot`."""

import sys

from .cli import main

sys.exit(main())
