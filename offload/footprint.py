"""What a model takes, known from its configuration alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specexec.kinds import BITS, GROUP, SHARED, TILE

PAGE, ALIGNED = 4096, 64
HEADER = 2 * PAGE  # a store file's, at most
HEAD_ROUNDED = 32  # a head's dimensions in the KV cache are filled to whole 32s
KV_GROUP = 128  # positions whose keys and values are quantised together
KV_BITS = {"int8": 8, "int4": 4}
KV_BLOCK, KV_STAYS = 64, 384  # positions that leave memory together; committed ones at the end that stay, at the most


def _up(number: int, to: int) -> int:
    return -(-number // to) * to


def matrix_bytes(rows: int, columns: int, kind: str) -> int:
    """Of a matrix in a store: quantised, with its scales, or bf16."""
    if kind == "bf16":
        return 2 * rows * columns
    rows, columns = _up(rows, TILE), _up(columns, GROUP)
    return rows * columns * BITS[kind] // 8 + rows * columns // SHARED[kind] * 2


@dataclass(frozen=True)
class Footprint:
    """Bytes, but for the counts. layer: one layer's file. kv_token: all layers' keys and values of one token, in bf16.

    kv_scales: of all layers, for a group of positions that is quantised.
    """

    layers: int
    parameters: int
    layer: int
    head: int
    embedding: int
    kv_token: int
    work_token: int  # a pass's own buffers, for each of its tokens
    vocabulary: int
    kv_scales: int = 0
    group: int = 1  # queries that share a head of keys and values

    def kv_bytes(self, kind: str, context: int, tree: int, rows: int = 0) -> int:
        """Of a KV cache in bf16, int8 or int4, and the tree's rows, always in bf16. rows: of the largest pass, where they are
        more: before they are quantised they take what they take.
        """
        if kind == "bf16":
            return self.kv_token * (context + tree)
        return context // KV_GROUP * KV_GROUP * self.kv_position(kind) + self.kv_token * (2 * KV_GROUP + max(tree, rows))

    def kv_position(self, kind: str) -> int:
        """Of one position more in that format."""
        return self.kv_token if kind == "bf16" else (self.kv_token * KV_BITS[kind] // 16 + self.kv_scales // KV_GROUP)

    @property
    def weights(self) -> int:
        """Bytes of the whole model."""
        return self.layers * self.layer + self.head + self.embedding

    @property
    def multiplied(self) -> int:
        """Parameters that a token is multiplied with: all but the embedding's, of two bytes each."""
        return self.parameters - self.embedding // 2


@dataclass(frozen=True)
class Away:
    """A KV cache that is elsewhere, in bytes. all: of it there. here: where it computes: what stays, beside the rows of a pass,
    and two layers with all there may be; what leaves is copied twice.
    """

    all: int
    here: int


def away(of: Footprint, kind: str, token: int, context: int, tree: int, rows: int) -> Away:
    """token: of all layers' keys and values as they are computed with; tree: rows of it besides the context; rows: of the
    largest pass.
    """
    stays = KV_STAYS + rows
    if kind == "bf16":
        whole, layer = context + tree, token // of.layers
        return Away(token * whole, token * stays + 2 * layer * (_up(whole, KV_BLOCK) + stays))
    groups, staying = max(1, context // KV_GROUP), stays // KV_GROUP
    group = _up(KV_GROUP * of.kv_position(kind) // of.layers, PAGE)
    return Away(of.layers * group * groups, token * stays + of.layers * group * staying + 2 * group * (groups + staying))


def footprint(config: Mapping[str, Any], kind: str) -> Footprint:
    """Of a model of one of the admitted families, its matrices as nf4, int8 or bf16."""
    width, ffn, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    dim = config.get("head_dim") or width // heads
    shapes = [(heads * dim, width), (kv_heads * dim, width), (kv_heads * dim, width), (width, heads * dim),
              (ffn, width), (ffn, width), (width, ffn)]
    matrices = sum(_up(matrix_bytes(*shape, kind), ALIGNED) for shape in shapes)
    vectors = 4 * (2 * width + 2 * dim + sum(rows for rows, _ in shapes))
    head = matrix_bytes(config["vocab_size"], width, "bf16" if kind == "bf16" else "int8")
    parameters = layers * sum(rows * columns for rows, columns in shapes) + 2 * config["vocab_size"] * width
    padded = _up(dim, HEAD_ROUNDED)
    work = 4 * (width + (heads + 2 * kv_heads) * dim + 2 * heads * padded + 2 * ffn) + 2 * (width + heads * dim + ffn)
    return Footprint(
        layers, parameters, _up(matrices + vectors + HEADER, PAGE), _up(head + 4 * width + HEADER, PAGE),
        2 * config["vocab_size"] * width, layers * 2 * kv_heads * padded * 2, work, config["vocab_size"],
        layers * kv_heads * 2 * 2 * (padded + KV_GROUP), max(1, heads // kv_heads))
