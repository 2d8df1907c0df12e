"""A model's tokenizer, as published: tokenizer.json, and the chat template beside it; or what a GGUF file holds of both."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from cli.name import is_gguf
from cli.pieces import Pieces
from offload.errors import DamagedFiles
from offload.gguf import Gguf
from offload.gguf_tokenizer import tokenizer
from specexec.errors import WrongUsage
from specexec.exchange import Messages

Make = Callable[[], Tokenizer]
NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


class Codec:
    """Implements TextCodec and ChatCodec."""

    def __init__(self, path: Path, raw: bool = False) -> None:
        make, settings = _of_file(path) if is_gguf(path) else _of_folder(path)
        try:
            self._special = {name: _text(settings[name]) for name in NAMES if settings.get(name)}
            self._tokens = _with(self._special.values(), make())
        except Exception as error:  # the tokenizers library raises bare Exceptions
            raise DamagedFiles(f"the tokenizer of {path} cannot be read: {error}", hint="fetch the model again") from error
        self._pieces = Pieces(self._tokens)
        self.template = None if raw else _template(path, settings)
        self.thinking: bool | None = None  # whether the template is asked for thoughts; None: as it likes

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """{token string: id}."""
        return self._tokens.get_vocab()

    @property
    def has_template(self) -> bool:
        return self.template is not None

    @property
    def can_choose_thinking(self) -> bool:
        return "enable_thinking" in (self.template or "")

    def encode(self, text: str) -> list[int]:
        return self._tokens.encode(text, add_special_tokens=False).ids

    def encode_first(self, text: str) -> list[int]:
        return self._tokens.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokens.decode(list(ids), skip_special_tokens=True)

    def piece(self, token: int) -> str | None:
        return self._pieces[token]

    def render(self, messages: Messages) -> str | None:
        if self.template is None:
            return None
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template  # a sandbox: templates are others' code

        said = [{name: value for name, value in message.items() if value is not None} for message in messages]
        thinking = {} if self.thinking is None else {"enable_thinking": self.thinking}
        try:
            return render_jinja_template(  # type: ignore[no-any-return]
                [said], chat_template=self.template, add_generation_prompt=True, **self._special, **thinking)[0][0]
        except (TemplateError, TypeError, ValueError) as error:
            refusal = f"the model's chat template refuses this conversation: {error}"
            raise WrongUsage(refusal, hint="--raw uses no template") from error


def _with(special: Iterable[str], found: Tokenizer) -> Tokenizer:
    """special: tokens that it may not have, or not as special ones."""
    found.no_truncation()
    found.no_padding()
    known = {token.content for token in found.get_added_tokens_decoder().values()}
    found.add_tokens([AddedToken(text, special=True) for text in special if text not in known])
    return found


def _of_folder(folder: Path) -> tuple[Make, dict[str, Any]]:
    """(what makes its tokenizer, tokenizer_config.json)"""
    file = folder / "tokenizer.json"
    if not file.exists():
        raise DamagedFiles(f"{folder} has no tokenizer.json.", hint="a folder with tokenizer.json in it")
    return partial(Tokenizer.from_file, str(file)), _json(folder / "tokenizer_config.json")


def _of_file(path: Path) -> tuple[Make, dict[str, Any]]:
    made, settings = tokenizer(Gguf(path))
    return partial(Tokenizer.from_str, json.dumps(made)), settings


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise DamagedFiles(f"{path} cannot be read: {error}", hint="fetch the model again") from error


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    return found
