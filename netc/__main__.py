"""`python -m netc`: the same as the `netc` command."""

import sys

from netc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
