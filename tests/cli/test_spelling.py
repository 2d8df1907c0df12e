"""Other tools' spellings: the aliases mean the same, foreign options are explained, contradictions are refused by name."""

import click
import pytest

from cli.main import main_group
from cli.option import Option
from cli.spelling import ALIASES, FOREIGN
from tests.cli.conftest import Specexec
from tests.cli.parsing import parsed

COMMANDS = [command for command in main_group.commands.values() if any(isinstance(param, Option) for param in command.params)]
SPELLINGS = [(name, alias) for name, aliases in ALIASES.items() for alias in aliases]
VALUES = {"--draft": "none", "--budget": "8", "--ctx-size": "512", "--vram": "8GB", "--temperature": "0.5", "--top-k": "5",
          "--top-p": "0.5", "--min-p": "0.5", "--repeat-penalty": "1.5", "--max-tokens": "5", "--kv": "int8"}


FIELD = {  # what people type elsewhere for what specexec does, by command
    "run": """
        llama.cpp: -m -hf -p -f -sys -sysf -n --predict -c --ctx-size --temp --temperature --top-k --top-p --min-p
        --repeat-penalty --seed -md -hfd --draft-max --spec-draft-n-max --spec-type -ngl --fit -lm -ctk -ctv -ctkd -ctvd
        -co --simple-io -v -lv --offline -hft -st -cnv -mli --show-timings --prompt-cache
        ollama: --num-ctx --num-predict --num-gpu --format --verbose --system
        mlx-lm: --model --prompt --system-prompt --max-tokens --max-kv-size --temp --draft-model --num-draft-tokens --kv-bits
        --prompt-cache-file
        exllamav3: -m -prompt -sp -maxr -cs -temp -topk -topp -minp -repp -dm -ndt -dds -ngram -gs -cq -tps -dbg
        llm: -m -s -f -a --no-stream -x --key
        lms: --stats --ttl --gpu --context-length --estimate-only""",
    "pull": "--revision --include --exclude --local-dir --dry-run --max-workers -q --token",
}


def takes(command: click.Command, name: str) -> bool:
    return any(name in param.opts for param in command.params)


@pytest.mark.parametrize(("name", "alias"), SPELLINGS)
def test_an_alias_means_what_its_option_means(name: str, alias: str) -> None:
    """In every command that has the option, and `_` for `-` in it too."""
    found = [command for command in COMMANDS if takes(command, name) and command.name in ("run", "chat", "bench")]
    assert found
    for command in found:
        wanted = parsed(command, name, VALUES.get(name, "text")).params
        assert parsed(command, alias, VALUES.get(name, "text")).params == wanted
        assert wanted != parsed(command).params


@pytest.mark.parametrize("name", [name for name in ALIASES if any(takes(command, name) for command in COMMANDS)])
def test_help_shows_one_spelling(name: str) -> None:
    command = next(command for command in COMMANDS if takes(command, name))
    words = set(command.get_help(click.Context(command)).replace(",", " ").split())
    assert name in words
    assert not words & set(ALIASES[name])


@pytest.mark.parametrize(("command", "spelling"), [
    (command, word) for command, tools in FIELD.items() for word in tools.split() if word.startswith("-")])
def test_what_people_type_elsewhere_is_understood_or_explained(command: str, spelling: str) -> None:
    own = {name for param in main_group.commands[command].params for name in (*param.opts, *param.secondary_opts)}
    assert spelling in own | FOREIGN.keys()


def test_every_alias_belongs_to_one_option() -> None:
    every = [alias for aliases in ALIASES.values() for alias in aliases]
    assert len(every) == len(set(every))
    assert not set(every) & (ALIASES.keys() | FOREIGN.keys())
    assert all(any(takes(command, name) for command in COMMANDS) for name in ALIASES)


@pytest.mark.parametrize("spelling", FOREIGN)
def test_a_foreign_option_is_explained_whatever_stands_behind_it(spelling: str, specexec: Specexec) -> None:
    """Also those that would be read as ours otherwise: -st as -s t, -sysf FILE as -s ysf and a prompt."""
    for arguments in ((spelling, "40"), (spelling,), (f"{spelling}=40",)):
        ran = specexec("run", "x", *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err == f"Error: there is no option {spelling}.\nTry: {FOREIGN[spelling]}\n"


def test_what_stands_behind_two_hyphens_is_no_option(specexec: Specexec) -> None:
    assert specexec("run", "-n", "3", "--", "-ngl").code == 0


@pytest.mark.parametrize(("arguments", "first", "second"), [
    (("run", "x", "-q", "-v"), "--quiet", "--verbose"),
    (("run", "x", "--stats", "-q"), "--quiet", "--stats"),
    (("run", "x", "--json", "-x"), "--extract", "--json"),
    (("chat", "-v", "-q"), "--quiet", "--verbose"),
    (("run", "x", "--gpu", "off", "--device", "cuda"), "--vram 0", "--device cuda"),
    (("convert", "bundled", "--out", "x", "--name", "y"), "--out", "--name"),
    (("rm", "--partial", "x"), "--partial", "names"),
])
def test_options_that_contradict_are_refused_together_by_name(
    arguments: tuple[str, ...], first: str, second: str, specexec: Specexec
) -> None:
    ran = specexec(*arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 2)
    for said in (first, second, "contradict"):
        assert said in ran.err


def test_of_two_that_contradict_the_one_closer_to_the_person_stands(
    specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECEXEC_VERBOSE", "1")
    assert len(specexec("run", "Once", "-n", "3").err.splitlines()) == 3
    assert specexec("run", "Once", "-n", "3", "-q").err == ""


def test_gpu_off_keeps_off_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from cli import settings

    given = parsed(main_group.commands["run"], "x", "--gpu", "off").params
    chosen = settings.model_options(given)
    assert (given["vram"], chosen.vram, chosen.device) == (0, None, "cpu")


@pytest.mark.parametrize("value", ["0.5", "max", "-1"])
def test_lms_shares_of_a_gpu_are_no_sizes(value: str, specexec: Specexec) -> None:
    ran = specexec("run", "x", "--gpu", value)
    assert ran.code == 2
    assert "--vram" in ran.err


@pytest.mark.parametrize(("word", "said"), [
    ("lst", "Try: specexec list"), ("remov", "Try: specexec remove"), ("verfy", "Try: specexec verify"),
    ("xyzzy", "Try: specexec --help"),
])
def test_an_unknown_word_names_the_nearest_command(word: str, said: str, specexec: Specexec) -> None:
    ran = specexec(word)
    assert (ran.code, ran.err) == (2, f'Error: there is no command "{word}".\n{said}\n')
