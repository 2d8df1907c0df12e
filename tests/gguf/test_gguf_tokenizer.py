"""The tokenizer that a GGUF file's lists make."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from offload.gguf import Gguf
from offload.gguf_tokenizer import tokenizer


def vocabulary(types: list[int]) -> dict[str, int]:
    tokens = ["a", "b", "ab", "[PAD3]", "[PAD4]"]
    metadata = {
        "general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.token_type": types,
    }
    made: dict[str, Any] = tokenizer(cast(Gguf, SimpleNamespace(path=Path("it.gguf"), metadata=metadata)))[0]
    return made["model"]["vocab"] | {token["content"]: token["id"] for token in made["added_tokens"]}


def test_what_fills_an_embedding_up_is_no_token() -> None:
    """A published draft of the same family has none of them, and must still fit."""
    assert vocabulary([1, 1, 1, 5, 5]) == {"a": 0, "b": 1, "ab": 2}
    assert vocabulary([1, 1, 1, 5, 1]) == {"a": 0, "b": 1, "ab": 2, "[PAD3]": 3, "[PAD4]": 4}
