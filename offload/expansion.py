"""A small model in a large one's shape: the same text at the large one's price, by function-preserving expansion.

The small stream lies in the first columns of the large one, whose others stay zero; small layers lie among inert ones, and
every other weight is noise that meets only zeros. Norms' weights and epsilon undo the longer mean, frequencies of RoPE are
found again at multiples of the small ones, queries make up for attention's larger divisor.   Net2Net, Chen et al. 2016
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from offload.errors import Refused
from offload.folder import EMBEDDING, HEAD, LAYERS, Folder
from offload.shape import Shape, check, copies
from offload.woven import Given, Padded, Woven
from specexec.kinds import GROUP

MATRICES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
            "mlp.down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")
BIASED = MATRICES[:3]
KEPT = ("rope_theta", "rope_parameters", "rope_scaling", "bos_token_id", "eos_token_id")  # of the small configuration


@dataclass(frozen=True, eq=False)
class Expansion:
    """config: the large shape's; title: what it is called. Raises Refused where the small model does not fit into it."""

    folder: Folder
    config: Mapping[str, Any]
    title: str

    def __post_init__(self) -> None:
        check(self.small, self.large)
        if any(size % GROUP for size in (self.small.width, self.small.ffn)):
            raise Refused(f"{self.folder.path} has sizes that are no multiples of {GROUP}.", hint="-m bundled")

    @cached_property
    def small(self) -> Shape:
        return Shape.of(self.folder.config)

    @cached_property
    def large(self) -> Shape:
        return Shape.of(self.config)

    @cached_property
    def weights(self) -> Mapping[str, torch.Tensor]:
        """The small model's, fp32."""
        return {name: tensor.float() for name, tensor in self.folder.tensors()}

    @property
    def live(self) -> int:
        """Columns of the large stream that are not always zero."""
        return copies(self.small, self.large) * self.small.width

    @property
    def queries(self) -> float:
        """What queries are multiplied with, since attention divides by the root of more dimensions."""
        return math.sqrt(self.large.head_dim / self.small.head_dim)

    @cached_property
    def places(self) -> list[int]:
        """Where the small layers lie among the large ones: first, last, and evenly between."""
        last, steps = self.large.layers - 1, max(self.small.layers - 1, 1)
        return [round(i * last / steps) for i in range(self.small.layers)]

    def described(self) -> dict[str, Any]:
        """The large model's config.json."""
        small = self.folder.config
        own = {name: value for name, value in self.config.items() if name not in KEPT}
        eps = small["rms_norm_eps"] * self.live / self.large.width
        return {**own, **{name: small[name] for name in KEPT if small.get(name) is not None}, "hidden_act": "silu",
                "rms_norm_eps": eps, "tie_word_embeddings": False, "head_dim": self.large.head_dim}

    def norm(self, name: str, weight: torch.Tensor | None) -> Given:
        """weight: the small norm's, None in an inert layer."""
        made = torch.ones(self.large.width)
        if weight is not None:
            made[: len(weight)] = weight * math.sqrt(self.live / self.large.width)
        return Given(name, made)

    def matrix(self, inner: str, index: int) -> Woven:
        """A small layer's matrix at its place; `index` counts the small layers."""
        small = self.weights[f"{LAYERS}{index}.{inner}.weight"]
        name = f"{self.title} {self.places[index]} {inner}"
        if inner == "self_attn.o_proj":
            return self._mixed(name, small)
        if inner == "mlp.down_proj":
            return self._down(name, small)
        return self._consumer(name, small * (self.queries if inner == "self_attn.q_proj" else 1), *self._rows(inner))

    def head(self) -> Woven:
        weight = self.weights[EMBEDDING if self.folder.config.get("tie_word_embeddings") else HEAD]
        row_of = torch.full((self.large.vocabulary,), -1)
        row_of[: len(weight)] = torch.arange(len(weight))
        return self._consumer(f"{self.title} head", weight, row_of, True)

    def embedding(self) -> Padded:
        shape = self.large.vocabulary, self.large.width
        return Padded(EMBEDDING, self.weights[EMBEDDING], shape, self.live // self.small.width)

    def _consumer(self, name: str, small: torch.Tensor, row_of: torch.Tensor, quiet: bool) -> Woven:
        """Reads the stream's first copy. quiet: rows that hold nothing must come to zero."""
        live = torch.arange(self.large.width) < self.live
        return Woven(name, small, row_of, torch.arange(self.small.width), live, live if quiet else torch.zeros_like(live))

    def _rows(self, inner: str) -> tuple[torch.Tensor, bool]:
        """(the small row of each large one, whether the others must come to zero)."""
        small, large = self.small, self.large
        if inner.startswith("mlp"):
            row_of = torch.full((large.ffn,), -1)
            row_of[: small.ffn] = torch.arange(small.ffn)
            return row_of, inner == "mlp.up_proj"  # whose zeros silence the gate's rows beside them
        heads, group = (small.heads, large.heads // large.kv_heads) if inner == "self_attn.q_proj" else (small.kv_heads, 1)
        row_of = torch.full((large.kv_heads * group, large.head_dim), -1)
        dims = torch.arange(small.head_dim) if inner == "self_attn.v_proj" else self._turned()
        for head in range(heads):
            row_of[self._head(head, heads, group), dims] = head * small.head_dim + torch.arange(small.head_dim)
        return row_of.flatten(), True

    def _head(self, head: int, heads: int, group: int) -> int:
        """The large head of a small one: the same KV head's group, so that it sees its keys."""
        each = heads // self.small.kv_heads
        return head // each * group + head % each

    def _turned(self) -> torch.Tensor:
        """Where dimensions that RoPE turns find their frequency in a larger head."""
        half, ratio = self.small.head_dim // 2, self.large.head_dim // self.small.head_dim
        pairs = torch.arange(half) * ratio
        return torch.cat((pairs, pairs + self.large.head_dim // 2))

    def _mixed(self, name: str, small: torch.Tensor) -> Woven:
        """o_proj: reads heads, of which those of a live KV head carry values, wanted or not."""
        group, dim = self.large.heads // self.large.kv_heads, self.large.head_dim
        columns = torch.arange(self.large.heads * dim)
        first = torch.tensor([self._head(head, self.small.heads, group) * dim for head in range(self.small.heads)])
        own = (first[:, None] + torch.arange(self.small.head_dim)).flatten()
        valued = (columns % dim < self.small.head_dim) & (columns // dim // group < self.small.kv_heads)
        shared = torch.zeros_like(valued)  # the rest of a group whose scale is the small weights'
        shared[(own // GROUP * GROUP)[:, None] + torch.arange(GROUP)] = True
        return self._producer(name, small, own, valued | shared, valued)

    def _down(self, name: str, small: torch.Tensor) -> Woven:
        live = torch.arange(self.large.ffn) < self.small.ffn
        return self._producer(name, small, torch.arange(self.small.ffn), live, live)

    def _producer(
        self, name: str, small: torch.Tensor, columns: torch.Tensor, blank: torch.Tensor, dead: torch.Tensor
    ) -> Woven:
        """Writes every copy of the stream, and zero behind them."""
        row_of = torch.full((self.large.width,), -1)
        row_of[: self.live] = torch.arange(self.live) % self.small.width
        return Woven(name, small, row_of, columns, blank, dead)


