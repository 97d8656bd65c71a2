"""``info``: what is built and what it runs on."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from seo_kernels.cli.console import report_console


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what is built: version, instruction set, devices, threads."""
    import seo_kernels as sk

    facts = sk.info()
    if as_json:
        typer.echo(json.dumps(facts, indent=2, default=str))
        return
    table = Table(title="seo_kernels", title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), _in_words(value))
    report_console().print(table)


def _in_words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_in_words(entry)}" for name, entry in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_in_words, value)) or "-"
    return str(value)
