"""``python -m seo_kernels``: the command line."""

import sys

from seo_kernels.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
