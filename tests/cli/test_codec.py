"""Ids, texts and rendered conversations are those of transformers' tokenizer over the same files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from cli.codec import NAMES, Codec
from specexec.errors import WrongUsage

FOLDERS = ["tokenizers/mistral-v1", "models/stories260k", "tokenizers/gpt2"]
TEMPLATE = ("{% for message in messages %}{{ bos_token }}[{{ message['role'] }}]{{ message['content'] | trim }}"
            "{% if message.tools is defined %}{{ message.tools | tojson }}{% endif %}{{ eos_token }}\n{% endfor %}"
            "{% if enable_thinking %}<think>{% endif %}{% if add_generation_prompt %}[assistant]{% endif %}")
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": " <be> kind\u00e9 "}, {"role": "user", "content": "Hi", "tools": [{"a<b": "\u00e9"}]},
    {"role": "assistant", "content": "", "tools": None}]
texts = st.lists(st.sampled_from(["<s>", "</s>", "<|endoftext|>", " the", "cat", "  ", "\n", "\u6f22", "\U0001f984", "<new>"])
                 | st.text(max_size=5), max_size=8).map("".join)


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published tokenizer that cuts and fills texts, whose configuration names a token it lacks."""
    path = tmp_path_factory.mktemp("tokenizer")
    made = json.loads((shared / request.param / "tokenizer.json").read_text(encoding="utf-8"))
    made["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (path / "tokenizer.json").write_text(json.dumps(made), encoding="utf-8")
    shutil.copy(shared / request.param / "tokenizer_config.json", path)
    settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"pad_token": {"content": "<new>"}, "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def theirs(folder: Path) -> PreTrainedTokenizerFast:
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = {name: value["content"] if isinstance(value, dict) else value
             for name in NAMES if (value := settings.get(name))}
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), clean_up_tokenization_spaces=False, **named)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Codec:
    return Codec(folder)


@given(text=texts)
def test_a_text_is_the_same_ids_and_they_the_same_text(text: str, ours: Codec, theirs: PreTrainedTokenizerFast) -> None:
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert ours.encode_first(text) == (ids := theirs.encode(text))
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_the_vocabulary_is_the_same(ours: Codec, theirs: PreTrainedTokenizerFast) -> None:
    assert ours.vocabulary == theirs.get_vocab()


@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_conversation_is_rendered_the_same(thinking: bool | None, ours: Codec, theirs: PreTrainedTokenizerFast) -> None:
    ours.thinking = thinking
    wanted = theirs.apply_chat_template(MESSAGES, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True,
                                        **({} if thinking is None else {"enable_thinking": thinking}))
    assert "[user]Hi" in wanted
    assert ours.render(MESSAGES) == wanted


def test_a_template_cannot_leave_its_sandbox(folder: Path) -> None:
    ours = Codec(folder)
    ours.template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(WrongUsage, match="template"):
        ours.render(MESSAGES)
