"""What a published tensor becomes in memory: itself in another dtype, or codes and scales."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from offload.errors import Refused
from offload.folder import EMBEDDING, HEAD
from specexec.formats import quantise


@dataclass(frozen=True)
class Plain:
    """Every tensor as it is, in dtype on device."""

    device: torch.device
    dtype: torch.dtype

    def __call__(self, name: str, tensor: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return {name: tensor.to(self.device, self.dtype)}


@dataclass(frozen=True)
class Quantised:
    """Matrices of the layers as `kind`, the head as int8, the embedding as stored, all else in dtype.

    A head's error moves every logit; its bytes are few beside the layers'. A tied embedding is both: rows as stored, and an
    int8 head. layout: of formats.py. Raises Refused for weights no format can hold.
    """

    kind: str
    layout: str
    tied: bool
    device: torch.device
    dtype: torch.dtype

    def __call__(self, name: str, tensor: torch.Tensor) -> Mapping[str, torch.Tensor]:
        if name == EMBEDDING:
            return {name: tensor.to(self.device)} | (self._matrix(HEAD, tensor, "int8") if self.tied else {})
        if name == HEAD:
            return self._matrix(name, tensor, "int8")
        if name.endswith("_proj.weight"):
            return self._matrix(name, tensor, self.kind)
        return {name: tensor.to(self.device, self.dtype)}

    def _matrix(self, name: str, tensor: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
        try:
            made = quantise(tensor, kind, self.layout)
        except ValueError as error:
            raise Refused(f"{name} cannot be quantised: {error}", hint="the same command without --quant") from error
        return {name: made.codes.to(self.device), name.removesuffix("weight") + "scales": made.scales.to(self.device)}
