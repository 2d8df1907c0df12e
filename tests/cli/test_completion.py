"""Completion as real shells ask for it: bash, and zsh and fish where they are installed."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import process
from tests.cli.conftest import Specexec
from tests.cli.shelf import shelve

BASH = r"""
eval "$(specexec completion bash)"
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_specexec_completion specexec 2>/dev/null
printf '%s\n' "${{COMPREPLY[@]}}"
"""
ZSH = r"""
compdef() {{ :; }}
compadd() {{ [[ $1 == -U ]] && shift 3; [[ $1 == -a ]] && print -l -- ${{(P)2}}; }}
_describe() {{ local name=$3; print -l -- ${{${{(P)name}}%%:*}}; }}
_path_files() {{ print "paths $1"; }}
eval "$(specexec completion zsh)"
words=({words}) CURRENT=${{#words}}
_specexec_completion
"""
FISH = 'specexec completion fish | source; complete -C "{line}"'


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in PATH with a command called specexec, and two models."""
    command = tmp_path / "bin" / "specexec"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m specexec "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    shelve(tmp_path, "Llama-3.2-3B-nf4", "meta-llama/Llama-3.2-3B")
    shelve(tmp_path, "Qwen2.5-72B-nf4", "Qwen/Qwen2.5-72B")
    shelve(tmp_path, "half.partial", "x/half")
    return tmp_path


def ask(name: str, line: str) -> set[str]:
    """What the shell called `name` offers for the last word of `line`."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    words = " ".join(f"'{word}'" for word in line.split(" "))
    script = {"bash": BASH, "zsh": ZSH, "fish": FISH}[name].format(words=words, line=line)
    flags = {"bash": ["--norc", "-c"], "zsh": ["-f", "-c"], "fish": ["-N", "-c"]}[name]
    ran = subprocess.run([name, *flags, script], capture_output=True, text=True, timeout=process.PATIENCE)
    return {word.split("\t")[0] for word in ran.stdout.split("\n") if word}


CASES = [
    ("specexec ", {"run", "chat", "list", "rm", "config"}, {"half"}),
    ("specexec li", {"list"}, {"run"}),
    ("specexec run -m ", {"bundled", "Llama-3.2-3B-nf4", "Qwen2.5-72B-nf4"}, {"half.partial", "lookup"}),
    ("specexec run --model lla", {"Llama-3.2-3B-nf4"}, {"bundled"}),
    ("specexec chat --draft ", {"auto", "lookup", "bundled", "Qwen2.5-72B-nf4"}, {"half.partial"}),
    ("specexec rm Llama-3.2-3B-nf4 Q", {"Qwen2.5-72B-nf4"}, {"bundled"}),
    ("specexec show ", {"bundled", "Llama-3.2-3B-nf4"}, {"half.partial"}),
    ("specexec run --temp", {"--temperature"}, {"--top-k"}),
    ("specexec run --color ", {"auto", "always", "never"}, {"bundled"}),
    ("specexec config ", {"edit", "path"}, {"run"}),
    ("specexec completion ", {"bash", "zsh", "fish"}, {"run"}),
]


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("line", "offered", "never"), CASES)
def test_a_shell_completes(name: str, line: str, offered: set[str], never: set[str], shell: Path) -> None:
    found = ask(name, line)
    assert offered <= found
    assert not never & found


def test_names_of_chats_complete(shell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cli import complete

    monkeypatch.setattr("cli.sessions.folder", lambda: shell / "sessions")
    (shell / "sessions").mkdir()
    (shell / "sessions" / "about-whales.jsonl").write_text("")
    assert [item.value for item in complete.chats(None, None, "ab")] == ["about-whales"]  # type: ignore[arg-type]


def test_a_broken_configuration_does_not_break_completion(shell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shell / "config.toml").write_text("broken")
    monkeypatch.setenv("SPECEXEC_CONFIG", str(shell / "config.toml"))
    assert "bundled" in ask("bash", "specexec run -m ")


def test_completion_loads_no_torch(shell: Path) -> None:
    asked = "import sys, cli.main, cli.complete; cli.complete.models(None, None, ''); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", asked], check=True, timeout=process.PATIENCE)


def test_an_unknown_shell_is_answered_with_the_known_ones(specexec: Specexec) -> None:
    ran = specexec("completion", "tcsh")
    assert (ran.code, ran.err.count("\n")) == (2, 2)
    assert "'bash', 'zsh', 'fish'" in ran.err
