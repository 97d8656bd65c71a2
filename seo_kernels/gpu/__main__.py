"""``python -m seo_kernels.gpu``: tests, gradients, sanitizers and figures on this machine's GPU.

Writes results.json, and a log and the files of each part, into a folder. A part that has passed is not run
again unless it is named, or the library has changed. It needs torch and the built library; a part that
needs more (pytest, typer, compute-sanitizer) is left out where that is missing, and says so. Exit status: 0,
all that ran passed; 1, a part failed; 2, there is no GPU, or no library for it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.gpu.parts import ROOT, Part, parts

LAST_LINES = 5  # of a part's output that are shown and kept in results.json


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; returns the exit status."""
    known = {part.name: part for part in parts()}
    parser = argparse.ArgumentParser(
        prog="python -m seo_kernels.gpu", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--output", type=Path, default=Path("gpu_results"), help="folder; default gpu_results"
    )
    parser.add_argument(
        "--part", action="append", choices=[*known], help="only this part, again; may be repeated"
    )
    options = parser.parse_args(arguments)
    why = _unserved()
    if why:
        print(f"error: {why}", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    results = _earlier_results(options.output)
    for name, part in known.items():
        again = options.part is not None and name in options.part
        if again or (options.part is None and results["parts"].get(name, {}).get("status") != "passed"):
            results["parts"][name] = _run(part, options.output)
            _write(options.output, results)
    for name, result in results["parts"].items():
        print(f"{name}: {result['status']}, {result['seconds']:.0f} s  {result['last_lines'][-1:]}")
    failed = [name for name, result in results["parts"].items() if result["status"] == "failed"]
    return 1 if failed else 0


def _unserved() -> str:
    """Why nothing can be proved here."""
    if not torch.cuda.is_available():
        return f"there is no GPU here that torch {torch.__version__} can use"
    return _library.reason(torch.device("cuda", torch.cuda.current_device()))


def _earlier_results(output: Path) -> dict[str, Any]:
    """What an earlier run of the same library left, or nothing yet."""
    library = hashlib.sha256(_library._CUDA_LIBRARY.read_bytes()).hexdigest()
    path = output / "results.json"
    if path.exists():
        results: dict[str, Any] = json.loads(path.read_text())
        if results["library"] == library:
            return results
    facts = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, **sk.info()}
    return {"library": library, "info": facts, "parts": {}}


def _write(output: Path, results: dict[str, Any]) -> None:
    """Whole or not at all."""
    scratch = output / "results.json.part"
    scratch.write_text(json.dumps(results, indent=1) + "\n")
    scratch.replace(output / "results.json")


def _run(part: Part, output: Path) -> dict[str, Any]:
    missing = part.missing()
    if missing:
        print(f"== {part.name}: left out, {missing}", flush=True)
        return {"status": "left out", "seconds": 0.0, "last_lines": [missing]}
    print(f"== {part.name}: {part.what}", flush=True)
    begun = time.monotonic()
    log = output / f"{part.name}.log"
    with log.open("w") as file:
        try:
            command = part.command(output.absolute())
            status: int | str = subprocess.run(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=part.environment(),
                timeout=part.seconds,
            ).returncode
        except subprocess.TimeoutExpired:
            status = f"ended after {part.seconds} s"
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    print(*lines, sep="\n", flush=True)
    return {
        "status": "passed" if status == 0 else "failed",
        "exit": status,
        "seconds": time.monotonic() - begun,
        "last_lines": lines,
    }


if __name__ == "__main__":
    sys.exit(main())
