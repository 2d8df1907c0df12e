"""A model's tensors by name, as a WeightSource holds them: all that are needed, of their shapes, and no others."""

from collections.abc import Iterable, Mapping

import torch

from specexec.engines.architecture import Architecture
from specexec.errors import Damaged
from specexec.formats import Packed, told

NORM, HEAD, EMBEDDING = "model.norm.weight", "lm_head", "model.embed_tokens"
AGAIN = "fetch the model again"
Tensors = Mapping[str, torch.Tensor]


def check(tensors: Tensors, config: Architecture) -> None:
    """Raises Damaged where a layer lacks a tensor, or has one that is unknown: it would compute something else."""
    found = {name.removesuffix("scales") + "weight" if name.endswith(".scales") else name for name in tensors}
    if lacking := sorted(config.tensors - found):
        raise Damaged(f"a layer of the model lacks {lacking[0]}.", hint=AGAIN)
    known(found - config.tensors, config.spare)


def check_resident(tensors: Tensors, config: Architecture) -> None:
    """The same of what is in no layer; the embedding may be elsewhere."""
    known(tensors, {NORM, f"{EMBEDDING}.weight", f"{HEAD}.weight", f"{HEAD}.scales"})
    if f"{EMBEDDING}.weight" in tensors:
        shaped(tensors, f"{EMBEDDING}.weight", config.vocab_size, config.hidden_size)


def known(names: Iterable[str], wanted: Iterable[str]) -> None:
    """Raises Damaged where one of `names` is not wanted."""
    if unknown := sorted(set(names) - set(wanted)):
        raise Damaged(f'tensor "{unknown[0]}" is unknown to the model.', hint=AGAIN)


def packed(tensors: Tensors, name: str, rows: int, columns: int, layout: str) -> Packed:
    """The quantised matrix `name`, as it lies in `tensors`. Raises Damaged where it is missing or of another shape."""
    codes, scales = tensors.get(f"{name}.weight"), tensors.get(f"{name}.scales")
    kind = told(codes, scales) if codes is not None and scales is not None else None
    if codes is None or scales is None or kind is None:
        raise Damaged(f'the model lacks the quantised matrix "{name}".', hint=AGAIN)
    try:
        return Packed(kind, layout, rows, columns, codes, scales)
    except ValueError as error:
        raise Damaged(f'matrix "{name}": {error}.', hint=AGAIN) from error


def shaped(tensors: Tensors, name: str, *shape: int) -> torch.Tensor:
    """The tensor `name`, in whatever dtype it is. Raises Damaged where it is missing or of another shape."""
    if (found := tensors.get(name)) is None:
        raise Damaged(f'the model lacks "{name}".', hint=AGAIN)
    if found.shape != shape:
        raise Damaged(f'tensor "{name}", {list(found.shape)}, is {list(shape)} in the model.', hint=AGAIN)
    return found


def vector(tensors: Tensors, name: str, size: int) -> torch.Tensor:
    """A norm's or a bias's fp32[size]. Raises Damaged."""
    if (found := shaped(tensors, name, size)).dtype != torch.float32:
        raise Damaged(f'"{name}" is {found.dtype}, and fp32 in the model.', hint=AGAIN)
    return found
