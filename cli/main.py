"""The command line: its commands, and the one place where what went wrong becomes two lines and an exit code."""

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import TextIO

import click

from cli import color
from cli.bench import bench
from cli.chat import chat
from cli.completion import completion
from cli.config import config
from cli.convert import convert
from cli.group import Group, nearest
from cli.list import list_
from cli.option import Option
from cli.plan import plan
from cli.pull import pull
from cli.reader import ReaderGone
from cli.rm import rm
from cli.run import run
from cli.show import show
from cli.verify import verify

FAILED, WRONG_USAGE, INTERRUPTED, READER_GONE = 1, 2, 130, 141


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": lambda name: name.replace("_", "-")},
    epilog='Examples: specexec run "Once upon a time"   |   specexec chat')
@click.option("--version", is_flag=True, help="Versions of specexec, torch and the device.")
@click.pass_context
def main_group(context: click.Context, version: bool) -> None:
    """Run language models larger than memory, offline."""
    color.choose(color.AUTO)
    if version:
        from importlib.metadata import version as installed

        from cli.build import versions

        click.echo(f"specexec {installed('specexec')}, " + ", ".join(f"{k} {v}" for k, v in versions().items()))
    elif context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (run, chat, pull, convert, list_, show, verify, rm, plan, bench, config, completion):
    main_group.add_command(command)


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit code (README)."""
    _lenient(sys.stdout)
    try:
        return _run(list(arguments))
    except (BrokenPipeError, ReaderGone):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return READER_GONE
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        return _two_lines(*_usage(error), WRONG_USAGE)
    except Exception as error:
        return explain(error)


def _lenient(out: TextIO) -> None:
    """Characters that the person's encoding lacks are spelled out: an answer never ends at one."""
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> int:
    if arguments and " " in arguments[0].strip() and not arguments[0].startswith("-"):
        arguments.insert(0, "run")
    code = main_group.main(arguments, prog_name="specexec", standalone_mode=False)
    sys.stdout.flush()
    return int(code or 0)


def explain(error: Exception) -> int:
    """Says what happened and what to type next; returns the exit code."""
    if os.environ.get("SPECEXEC_DEBUG"):
        traceback.print_exception(error)
    hint, code = getattr(error, "hint", None), getattr(error, "exit_code", FAILED)
    if hint is not None:
        return _two_lines(str(error), hint, code)
    if isinstance(error, MemoryError):
        return _two_lines("memory is used up.", "a smaller --ctx-size, --budget or model", 3)
    what = f"something unexpected: {type(error).__name__}: {error}".split("\n")[0]
    return _two_lines(what, f"specexec again; the report is in {_report(error)}", code)


def _report(error: Exception) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="specexec-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return file.name


def _two_lines(what: str, hint: str, code: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        click.echo("Error: " + " ".join(what.split("\n")) + f"\nTry: {hint}", err=True)
    return code


def _usage(error: click.ClickException) -> tuple[str, str]:
    """(what, hint) of a click error."""
    context = getattr(error, "ctx", None)
    place = context.command_path if context else "specexec"
    if isinstance(error, click.NoSuchOption):
        near = nearest(error.option_name, [name for p in context.command.params for name in p.opts] if context else [])
        return f"there is no option {error.option_name}.", near or f"{place} --help"
    what = error.format_message().replace("\n", " ")
    if isinstance(error, click.BadParameter) and isinstance(error.param, Option) and context:
        return what, error.param.remedy(context)
    return what, f"{place} --help"
