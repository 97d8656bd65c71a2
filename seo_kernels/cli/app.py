"""The command group, and the way from an argument list to an exit status."""

import sys
from collections.abc import Sequence

import typer
from typer.main import get_command

from seo_kernels.cli.bench import bench
from seo_kernels.cli.check import check
from seo_kernels.cli.demo import demo
from seo_kernels.cli.diagnose import diagnose
from seo_kernels.cli.errors import describe_parse_error
from seo_kernels.cli.info import info

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fused attention for PyTorch: what is built, proof of its gradients, a model that learns.",
)
app.command()(info)
app.command()(check)
app.command()(bench)
app.command()(demo)
app.command()(diagnose)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``arguments`` default to those of the process.

    Returns the exit status: 0 for success, 1 for a failed check, 2 for bad usage (after one line on standard
    error), 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    group = get_command(app)
    try:
        status = group.main(args=words, prog_name="python -m seo_kernels", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        typer.echo(f"error: {describe_parse_error(error, group, words)}", err=True)
        return 2
    return status if isinstance(status, int) else 0
