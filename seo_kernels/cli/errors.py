"""Bad usage: one line that names what came and what was expected, and exit status 2."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

from seo_kernels._extras import MissingExtraError


def usage_error(message: str) -> NoReturn:
    """Print ``message`` as one line on standard error and leave with exit status 2."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


def expect_one_of(name: str, value: str, allowed: Iterable[str]) -> str:
    """``value`` if it is among ``allowed``, else a usage error that lists them."""
    choices = list(allowed)
    if value not in choices:
        usage_error(f"{name} is {value!r}, expected one of {', '.join(choices)}")
    return value


def expect_folder(name: str, path: Path) -> None:
    """A usage error where ``path`` is a file."""
    if path.exists() and not path.is_dir():
        usage_error(f"{name} is {str(path)!r}, which is a file, expected a folder")


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """What does not fit is a usage error; a package that is missing leaves with exit status 1."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        usage_error(str(error))
    except MissingExtraError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def describe_parse_error(error: Any, group: Any, arguments: list[str]) -> str:
    """One line for an error of the argument parser: its own message, then what would have been right.

    ``error`` is the parser's exception (it has ``format_message``), ``group`` the command group that parsed
    ``arguments``.
    """
    named_option = getattr(error, "option_name", None)
    message = " ".join((error.message if named_option else error.format_message()).split()).rstrip(".")
    command = group.commands.get(next((word for word in arguments if not word.startswith("-")), ""))
    if command is None:
        return f"{message}; expected one of {', '.join(group.commands)}"
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
    if named_option and named_option not in options:
        return f"{message}; expected one of {', '.join([*options, '--help'])}"
    if not named_option and not hasattr(error, "param"):  # words that no argument takes
        return f"{message}; expected {' '.join(error.ctx.get_usage().split()[1:])}"
    return message
