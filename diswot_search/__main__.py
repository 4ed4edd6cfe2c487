"""`python -m diswot_search` is `diswot`."""

from __future__ import annotations

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


if __name__ == "__main__":
    sys.exit(main())
