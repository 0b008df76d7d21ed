"""``python -m edgejpeg`` is the ``edgejpeg`` command."""

import sys

from edgejpeg.cli import main

if __name__ == "__main__":
    sys.exit(main())
