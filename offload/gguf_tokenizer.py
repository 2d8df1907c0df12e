"""tokenizer.json and tokenizer_config.json of a model whose GGUF file alone is here."""

import json
from collections.abc import Mapping
from typing import Any

from offload.errors import DamagedFiles, Refused
from offload.gguf import AGAIN, Gguf

NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
WORDS_FIRST = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "tekken"}  # whole words before merges
UNUSED = 5  # a token's type in a file
LISTS = ("tokens", "scores", "token_type")  # of the library's names, those with an entry a token
AS_GPT2 = ("gpt-2", "gpt2", "default", None)
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
PREFIX = {"type": "Prepend", "prepend": "\u2581"}


def tokenizer(model: Gguf) -> tuple[dict[str, Any], dict[str, Any]]:
    """What tokenizer.json and tokenizer_config.json would say. Raises Refused for a kind of them that is not known."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    metadata = model.metadata
    kind, cuts = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    known = kind == "llama" or (kind == "gpt2" and (cuts in GGUF_PRE_TOKENIZER_SPLITS or cuts in AS_GPT2))
    if not known:
        raise Refused(f'{model.path}: a tokenizer "{kind}" that cuts text as "{cuts}" is not known.',
                      hint="the model as published, with tokenizer.json")
    try:
        return _made(metadata, str(kind), cuts), _settings(metadata)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise DamagedFiles(f"the tokenizer of {model.path} cannot be read: {error}", hint=AGAIN) from error


def _made(metadata: Mapping[str, Any], kind: str, cuts: str | None) -> dict[str, Any]:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

    said = {name: metadata[f"tokenizer.{key}"] for key, name in GGUF_TOKENIZER_MAPPING["tokenizer"].items()
            if f"tokenizer.{key}" in metadata}
    count = _used(metadata)
    said |= {name: said[name][:count] for name in LISTS if name in said}
    backend, _ = convert_gguf_tokenizer(str(metadata["general.architecture"]), said)
    found: dict[str, Any] = json.loads(backend.to_str())
    found["added_tokens"] = [token for token in found["added_tokens"] if token["id"] < count]  # others are the library's own
    if kind == "llama":  # llama.cpp always puts a space before a text, the library not where there is one
        prefix = [PREFIX] if metadata.get("tokenizer.ggml.add_space_prefix", True) else []
        found["normalizer"], found["pre_tokenizer"] = {"type": "Sequence", "normalizers": [*prefix, SPACES]}, None
        if not prefix:
            found["decoder"]["decoders"] = [one for one in found["decoder"]["decoders"] if one["type"] != "Strip"]
    found["model"]["ignore_merges"] = cuts in WORDS_FIRST
    found["post_processor"] = _begun(metadata) if _begins(metadata, kind, cuts) else None
    return found


def _used(metadata: Mapping[str, Any]) -> int:
    """How many tokens there are but for those at the end that fill an embedding's rows up, and that no text becomes."""
    types = metadata.get("tokenizer.ggml.token_type") or [0] * len(metadata["tokenizer.ggml.tokens"])
    return next((number for number in range(len(types), 0, -1) if types[number - 1] != UNUSED), 0)


def _begins(metadata: Mapping[str, Any], kind: str, cuts: str | None) -> bool:
    """Whether a text begins with a token that says so; where a file does not tell, as llama.cpp has it."""
    told = metadata.get("tokenizer.ggml.add_bos_token", kind == "llama" or cuts in WORDS_FIRST)
    return bool(told) and metadata.get("tokenizer.ggml.bos_token_id") is not None


def _begun(metadata: Mapping[str, Any]) -> dict[str, Any]:
    number = int(metadata["tokenizer.ggml.bos_token_id"])
    token = metadata["tokenizer.ggml.tokens"][number]
    first, text, other = ({"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                          {"Sequence": {"id": "B", "type_id": 0}})
    return {"type": "TemplateProcessing", "single": [first, text], "pair": [first, text, other],
            "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}}}


def _settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {name: metadata.get(f"tokenizer.ggml.{theirs}_token_id") for name, theirs in NAMED.items()}
    named = {name: tokens[number] for name, number in ids.items() if number is not None and number < len(tokens)}
    template = metadata.get("tokenizer.chat_template")
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named,
            **({"chat_template": template} if template else {})}
