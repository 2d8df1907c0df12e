"""`specexec pull`: a model of the hub becomes a store, converted as it comes."""

import shlex
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from cli import options as table

if TYPE_CHECKING:  # torch is loaded when a command runs, not when it is named
    from cli.coming import Coming, Manner

DRAFT_KIND = "int8"  # a draft's rounding costs guesses, and its bytes are few
ANOTHER = "--draft none, or a smaller model of the same family"


@click.command(epilog="Examples: specexec pull Qwen/Qwen2.5-72B-Instruct   |   specexec pull Qwen/Qwen3-8B:int8 --draft none")
@click.argument("repo")
@table.pull_options
def pull(
    repo: str, to: str | None, revision: str | None, draft: str | None, copy: str | None, keep_source: bool, dry_run: bool,
    yes: bool, name: str | None, offline: bool, quiet: bool,
) -> int:
    """Fetch the model REPO of the hub, converted as it comes.

    REPO is org/name[@revision][:format]. Stopped, the same command goes on where it was.
    """
    from cli.interrupt import INTERRUPTED
    from cli.reference import reference
    from cli.render import note
    from offload.hub_errors import check_online

    check_online(offline)  # torch, which the next line loads, would be two seconds of waiting for a no
    from cli.coming import Coming, Manner

    manner = Manner(keep_source, dry_run, yes, quiet)
    try:
        with ExitStack() as stack:
            target = Coming(reference(repo).but(revision, to), name, manner, copy)
            _begin(target, stack)
            coming = [target, *_drafts(target, draft, stack)]
            if dry_run:
                return _list(coming)
            for one in coming:
                one.make()
    except KeyboardInterrupt:
        note(f"stopped; this goes on: {shlex.join(['specexec', *sys.argv[1:]])}", quiet)
        return INTERRUPTED
    note(f"specexec chat -m {' --draft '.join(one.out.name for one in coming)}", quiet)
    click.echo("\n".join(one.out.name for one in coming))
    return 0


def _begin(one: "Coming", stack: ExitStack) -> None:
    """Everything that can be said before the first byte of weights. Raises Abort where the person would rather not."""
    from offload.errors import Refused, TooLittleMemory

    one.stage(stack)
    if one.is_there:
        return
    one.progress.say(one.size())
    try:
        one.progress.say("  " + one.prospect())
    except TooLittleMemory as error:
        if one.manner.dry or one.manner.yes:
            one.progress.say(f"  {error}")
        elif not sys.stdin.isatty():
            what = f"{one.repo.name} cannot run here: {error}"
            raise Refused(what, hint="the same command with -y fetches it all the same") from error
        else:
            click.confirm(f"It cannot run here: {error} Fetch it all the same?", abort=True, err=True)


def _drafts(target: "Coming", given: str | None, stack: ExitStack) -> "list[Coming]":
    """What is to draft for it: what was asked for, or else what the person takes of what is offered; none or one."""
    from cli.kin import usual_draft
    from offload.errors import OffloadError
    from specexec.errors import SpecexecError

    if given not in (None, "auto", "none"):
        return [_draft(target, str(given), stack)]
    offered = None if given == "none" else usual_draft(target.repo.name)
    if offered is None or not _wanted(offered, target.manner):
        return []
    try:
        return [_draft(target, offered, stack)]
    except (OffloadError, SpecexecError) as error:  # nobody asked for this one
        target.progress.say(f"no draft comes with it: {error}")
        return []


def _wanted(repo: str, manner: "Manner") -> bool:
    from cli.render import note

    if manner.yes:
        return True
    if manner.quiet or manner.dry or not sys.stdin.isatty():
        note(f"{repo} drafts for it: specexec pull {repo}:{DRAFT_KIND}", manner.quiet)
        return False
    return click.confirm(f"Fetch {repo} too, which makes it faster by drafting?", default=True, err=True)


def _draft(target: "Coming", repo: str, stack: ExitStack) -> "Coming":
    """Raises WrongUsage where its tokens are others."""
    from cli.coming import Coming
    from cli.reference import reference
    from specexec.errors import WrongUsage
    from specexec.vocabulary import match

    found = Coming(reference(repo).but(None, None, DRAFT_KIND), None, target.manner)
    if found.out == target.out:
        raise WrongUsage(f"{found.out.name} cannot draft for itself.", hint=ANOTHER)
    _begin(found, stack)
    try:
        match(target.codec().vocabulary, found.codec().vocabulary)
    except WrongUsage as error:
        raise WrongUsage(str(error), hint=ANOTHER) from error
    return found


def _list(coming: "list[Coming]") -> int:
    """Files and bytes, on stdout."""
    from offload.size import size

    for name, nbytes in (file for one in coming for file in one.files()):
        click.echo(f"{size(nbytes):>10}  {name}")
    return 0
