"""A GGUF file: the model that its metadata describe, and where its tensors lie."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from offload.errors import DamagedFiles, NotHere, OffloadError, Refused
from offload.gguf_config import config
from offload.parts import read

PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}  # by their numbers in the file; all others are blocks
FACTORS = "rope_freqs.weight"
AGAIN = "fetch the file again"
NAMES = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")  # lists of strings, which are long
T = TypeVar("T")

if TYPE_CHECKING:  # the library's import takes half a second, and most models are no GGUF files
    from transformers.integrations.gguf.reader import TensorInfo


@cache
def kinds() -> Mapping[int, str]:
    """Of tensors, by their numbers in the file."""
    from transformers.integrations.gguf.dequant import GGML_NAME

    return {**GGML_NAME, 0: "F32", 1: "F16", 30: "BF16"}


class Gguf:
    """Raises NotHere, DamagedFiles, or Refused for a part of a model."""

    def __init__(self, path: Path) -> None:
        from transformers.integrations.gguf.reader import GgufHeader

        if not path.is_file():
            raise NotHere(f"there is no file {path}.", hint="specexec list shows what is here")
        self.path = path
        self.header = self._read(lambda: GgufHeader.from_file(str(path)))
        if int(self.metadata.get("split.count", 1)) > 1:
            raise Refused(f"{path} is one of {self.metadata['split.count']} parts of a model.",
                          hint="the parts made one file by llama.cpp's llama-gguf-split")
        self._check()

    def _read(self, reader: Callable[[], T]) -> T:
        try:
            return reader()
        except OSError as error:
            raise OffloadError(f"{self.path} cannot be read: {error.strerror}.", hint="check the disk") from error
        except Exception as error:  # what a broken header makes of the reader is any of them
            what = str(error).split("\n")[0]
            raise DamagedFiles(f"{self.path} is no GGUF file that can be read: {what}", hint=AGAIN) from error

    def _check(self) -> None:
        """Raises DamagedFiles where a tensor is not wholly in the file."""
        size = self.path.stat().st_size
        for info in self.header.tensors:
            if min(info.shape, default=0) < 1 or self.start(info) + info.nbytes > size:
                raise DamagedFiles(f"{self.path} ends at byte {size:,}, before the end of {info.name[:100]}.", hint=AGAIN)

    def start(self, info: "TensorInfo") -> int:
        """The byte of the file where a tensor begins."""
        return int(self.header.data_start + info.offset)

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        from transformers.integrations.gguf.reader import read_gguf_metadata

        found: dict[str, Any] = self._read(lambda: read_gguf_metadata(str(self.path), NAMES))[0]
        return found

    @cached_property
    def tensors(self) -> Mapping[str, "TensorInfo"]:
        return {info.name: info for info in self.header.tensors}

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json would say, if it had been published so. Raises Refused for architectures that are not ours."""
        factors = self.values(FACTORS).tolist() if FACTORS in self.tensors else []
        try:
            return config(self.metadata, self.tensors, factors)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise DamagedFiles(f"{self.path} does not describe its model: {error}.", hint=AGAIN) from error

    def values(self, name: str) -> torch.Tensor:
        """A small tensor, dequantised."""
        info = self.tensors[name]
        raw = torch.frombuffer(read(self.path, self.start(info), info.nbytes), dtype=torch.uint8)
        return values(raw, info.ggml_type).view(info.shape)

    @property
    def generation(self) -> dict[str, Any]:
        """What generation_config.json would say."""
        ids = [self.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
        named = {ours: self.metadata.get(f"general.sampling.{theirs}")
                 for ours, theirs in (("temperature", "temp"), ("top_k", "top_k"), ("top_p", "top_p"), ("min_p", "min_p"))}
        return {"eos_token_id": sorted({int(found) for found in ids if found is not None}),
                **{name: value for name, value in named.items() if value is not None}}

    @property
    def nbytes(self) -> int:
        return self.path.stat().st_size

    @property
    def parameters(self) -> int:
        return sum(prod(info.shape) for info in self.header.tensors)

    @cached_property
    def bytes_by_kind(self) -> Mapping[str, int]:
        """Bytes of tensors of each kind, most first."""
        found = Counter[str]()
        for info in self.header.tensors:
            found[kinds()[info.ggml_type]] += info.nbytes
        return dict(found.most_common())

    @property
    def wide(self) -> bool:
        """Whether all of it is fp32."""
        return self.bytes_by_kind.keys() == {"F32"}


def values(raw: torch.Tensor, number: int) -> torch.Tensor:
    """Of the bytes of a tensor, or of whole rows of it, uint8: as they are, or fp32 where they are blocks."""
    if number in PLAIN:
        return raw.flatten().view(PLAIN[number])
    from transformers.integrations.gguf.dequant import dequantize

    found: torch.Tensor = dequantize(raw.flatten(), number)
    return found
