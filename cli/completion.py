"""`specexec completion`: the script with which a shell completes commands, options, models and chats."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(epilog='Examples: eval "$(specexec completion bash)"   |   specexec completion fish')
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print what completes specexec's words in SHELL.

    For its start-up file: eval "$(specexec completion bash)" in ~/.bashrc, zsh the same in ~/.zshrc, and for fish
    specexec completion fish > ~/.config/fish/completions/specexec.fish.
    """
    from cli import render

    made = get_completion_class(shell)
    assert made is not None
    render.write(made(context.find_root().command, {}, "specexec", "_SPECEXEC_COMPLETE").source() + "\n")
    return 0
