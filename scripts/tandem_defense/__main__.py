"""``python -m tandem_defense`` is the command ``tandem-defense``."""

import sys

from tandem_defense.cli import main

if __name__ == "__main__":
    sys.exit(main())
