"""`python -m diswot_search` is `diswot`."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Run the command line, also where Ctrl-C comes while it is loaded.

    Returns:
        The exit status; see `cli.main`.
    """
    try:
        from . import cli

        return cli.main()
    except KeyboardInterrupt:
        sys.stderr.write("diswot: interrupted.\n")
        return 130
    finally:
        gc.freeze()  # or Python looks through all objects of torch at its exit, which takes a second


if __name__ == "__main__":
    sys.exit(main())
