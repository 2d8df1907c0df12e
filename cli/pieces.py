"""What each token says by itself, where a tokenizer's texts are those of its tokens, one after the other."""

import json
from typing import Any

from tokenizers import Tokenizer

from specexec.answer import REPLACEMENT

EACH = {"ByteLevel", "ByteFallback", "Metaspace", "Replace", "Strip"}  # decoders that see a token alone, or a run of bytes
BYTE = "<0x"  # a token that is one byte begins so; what a run of them says is not what they say
ANCHOR = "a"  # what stands before: at a text's beginning a space may go


class Pieces(dict[int, str | None]):
    """{id: what it adds to any text, if not to none, that ends with a whole character}, made as it is asked for.

    None where that depends on what stands beside it: of a part of a character, and of a tokenizer that joins its tokens
    in a way that is not known here.
    """

    def __init__(self, tokens: Tokenizer) -> None:
        super().__init__()
        self._tokens, self._before = tokens, tokens.encode(ANCHOR, add_special_tokens=False).ids
        self._known = len(self._said([]))
        self._joins = self._known > 0 and _joins(tokens)

    def __missing__(self, token: int) -> str | None:
        self[token] = found = self._piece(token) if self._joins else None
        return found

    def _piece(self, token: int) -> str | None:
        if (self._tokens.id_to_token(token) or BYTE).startswith(BYTE):
            return None
        said = self._said([token])[self._known :]
        return None if REPLACEMENT in said else said

    def _said(self, ids: list[int]) -> str:
        return self._tokens.decode(self._before + ids, skip_special_tokens=True)


def _joins(tokens: Tokenizer) -> bool:
    """Whether texts are those of their tokens: what follows the joining, if anything, takes from the beginning alone."""
    if tokens.decoder is None:
        return False
    steps = _steps(json.loads(tokens.decoder.__getstate__()))
    kinds = [step["type"] for step in steps]
    joined = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    after = steps[joined + 1 :]
    return set(kinds[:joined]) <= EACH and all(step["type"] == "Strip" and step["stop"] == 0 for step in after)


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for one in decoder["decoders"] for step in _steps(one)] if decoder["type"] == "Sequence" else [decoder]
