"""Every mistake ends in two lines, what happened and what to type next, with the exit code that says whose it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Ran, Specexec

SPOILED = {
    "empty": (5, "is empty"),
    "no_config": (5, "has no config.json"),
    "broken_config": (5, "config.json cannot be read"),
    "list_config": (5, "holds no JSON object"),
    "no_weights": (5, "has no safetensors"),
    "pickle": (1, "is a pickle"),
    "cut_weights": (5, "is broken"),
    "wrong_shape": (5, "tensor"),
    "missing_layer": (5, "lacks"),
    "missing_shard": (5, "is not here"),
    "no_tokenizer": (5, "has no tokenizer.json"),
    "broken_tokenizer": (5, "cannot be read"),
    "remote_code": (1, "code of its own"),
    "architecture": (1, '"gpt2"'),
    "longrope": (1, "longrope"),
}


@pytest.fixture
def copy(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared / "models" / "stories260k", tmp_path / "model"))


def change(path: Path, **entries: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def spoil(folder: Path, how: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    actions: dict[str, Callable[[], object]] = {
        "empty": lambda: [path.unlink() for path in folder.iterdir()],
        "no_config": config.unlink,
        "broken_config": lambda: config.write_text("{"),
        "list_config": lambda: config.write_text("[]"),
        "no_weights": weights.unlink,
        "pickle": lambda: weights.rename(folder / "pytorch_model.bin"),
        "cut_weights": lambda: weights.write_bytes(weights.read_bytes()[:-1000]),
        "wrong_shape": lambda: change(config, intermediate_size=171),
        "missing_layer": lambda: change(config, num_hidden_layers=6),
        "missing_shard": lambda: [weights.unlink(), (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}')],
        "no_tokenizer": (folder / "tokenizer.json").unlink,
        "broken_tokenizer": lambda: (folder / "tokenizer.json").write_text("{}"),
        "remote_code": lambda: change(config, auto_map={"AutoModelForCausalLM": "modeling.Model"}),
        "architecture": lambda: change(config, model_type="gpt2"),
        "longrope": lambda: change(config, rope_scaling={"rope_type": "longrope", "short_factor": [1.0] * 4,
                                                         "long_factor": [2.0] * 4, "factor": 2.0}),
    }
    actions[how]()


def assert_two_lines(err: str, *words: str) -> None:
    lines = err.strip().split("\n")
    assert len(lines) == 2, err
    assert lines[0].startswith("Error: ")
    assert lines[1].startswith("Try: ")
    assert len(lines[1]) > len("Try: ")
    for word in words:
        assert word in err
    assert "Traceback" not in err


def assert_refused(ran: Ran, named: str, hint: str) -> None:
    """As wrong usage: the first line names it, the second what to type."""
    assert (ran.code, ran.out) == (2, "")
    assert_two_lines(ran.err)
    first, second = ran.err.strip().split("\n")
    assert named in first
    assert hint in second


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_folder_is_refused(how: str, copy: Path, specexec: Specexec) -> None:
    spoil(copy, how)
    code, words = SPOILED[how]
    ran = specexec("run", "Once", "-m", str(copy))
    assert_two_lines(ran.err, words)
    assert (ran.code, ran.out) == (code, "")


WRONG = [
    (("run", "x", "-m", "no/such-model"), 4, ("no/such-model",)),
    (("run", "x", "-m", "./no-such-folder"), 4, ("no-such-folder",)),
    (("run", "x", "--draft", "./no-such-folder"), 4, ("no-such-folder",)),
    (("run", "x", "--temprature", "1"), 2, ("--temprature", "Try: --temperature")),
    (("run", "x", "-ngl", "40"), 2, ("-ngl", "places layers itself")),
    (("rnu", "x"), 2, ("Try: specexec run",)),
    (("run",), 2, ("the prompt is empty",)),
    (("run", "  "), 2, ("the prompt is empty",)),
    (("run", "x", "-p", "y"), 2, ("given twice",)),
    (("run", "x", "-f", "./no-such-file"), 2, ("no-such-file",)),
    (("run", "x", "--draft", "none", "--draft", "lookup"), 2, ("contradicts",)),
    (("run", "\udcff"), 2, ("not UTF-8",)),
    (("run", "x", "--device", "tpu"), 2, ("--device",)),
    (("run", "x", "--ctx-size", "99999"), 2, ("99,999", "1,024")),
    (("run", "x", "--stop", ""), 2, ("--stop",)),
    (("run", "x", "-s", "@no-such-file"), 2, ("no-such-file",)),
    (("bench", "--prompts", "./no-such-file"), 2, ("no-such-file",)),
]
OUT_OF_RANGE = [
    ("--budget", "-1"), ("--budget", "5000"), ("--budget", "many"), ("--temperature", "-1"), ("--temperature", "warm"),
    ("--temperature", "nan"), ("--top-k", "-1"), ("--top-p", "0"), ("--top-p", "1.5"), ("--min-p", "2"), ("--seed", "-1"),
    ("--repeat-penalty", "0"), ("-n", "0"), ("--ctx-size", "1"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG)
def test_a_wrong_command_line_says_what_to_type(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...], specexec: Specexec
) -> None:
    ran = specexec(*arguments)
    assert_two_lines(ran.err, *words)
    assert (ran.code, ran.out) == (code, "")


@pytest.mark.parametrize(("option", "value"), OUT_OF_RANGE)
def test_an_option_out_of_range_is_named(option: str, value: str, specexec: Specexec) -> None:
    ran = specexec("run", "x", option, value)
    assert_two_lines(ran.err, option)
    assert ran.code == 2


def test_a_bad_variable_is_named(specexec: Specexec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECEXEC_BUDGET", "many")
    ran = specexec("run", "x")
    assert_two_lines(ran.err, "SPECEXEC_BUDGET")
    assert ran.code == 2


def test_vocabularies_that_differ_are_named(shared: Path, specexec: Specexec) -> None:
    ran = specexec("run", "x", "-m", str(shared / "models" / "stories260k"), "--draft", "bundled")
    assert_two_lines(ran.err, "token 3", '"<0x00>"')
    assert ran.code == 2


def test_a_prompt_over_the_context_gives_both_numbers(specexec: Specexec) -> None:
    ran = specexec("run", stdin=b"Once upon a time " * 23_530)
    assert_two_lines(ran.err, "the context is 1,024", "tokens")
    assert (ran.code, ran.out) == (2, "")


def test_standard_input_must_be_utf8(specexec: Specexec) -> None:
    ran = specexec("run", stdin=b"Once \xff\xfe")
    assert_two_lines(ran.err, "not UTF-8", "byte 5")
    assert ran.code == 2


def test_what_nobody_foresaw_leaves_a_report_and_no_traceback(specexec: Specexec, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a wire came loose")

    monkeypatch.setattr("cli.build.open_session", fail)
    ran = specexec("run", "x")
    assert_two_lines(ran.err, "a wire came loose")
    assert ran.code == 1
    report = Path(ran.err.strip().rsplit(" ", 1)[1])
    assert "a wire came loose" in report.read_text()
    report.unlink()
