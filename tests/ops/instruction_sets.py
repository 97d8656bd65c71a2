"""Tests once more on what older machines have, each in a process of its own: kernels are chosen but once."""

import os
import subprocess
import sys

import seo_kernels as sk
from seo_kernels.cli.check import CAPABILITIES, CAPABILITY_VARIABLE

_BEST = sk.info()["cpu_capability"]
LOWER = CAPABILITIES[: CAPABILITIES.index(_BEST)] if _BEST else ()


def run_again(capability: str, *arguments: str) -> None:
    """pytest with these arguments, kept from instruction sets above ``capability``."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments],
        env=os.environ | {CAPABILITY_VARIABLE: capability},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
