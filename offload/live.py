"""What is live in an expanded store, as a model of its own: the small model in the large one's arithmetic.

Live rows and columns come first in every matrix, in whole tiles and groups, and what is behind them adds zeros: a small
engine over these tensors has the large one's bits, where the expansion is exact.
"""

from offload.expansion import BIASED, NORMS, Expansion
from offload.inside import Inside, Tensors
from offload.store import Store
from specexec.kinds import GROUP, TILE


class Live(Inside):
    """Of a store in layout tile16."""

    def __init__(self, of: Expansion, store: Store) -> None:
        small, large = of.small, of.large
        heads = small.kv_heads * (large.heads // large.kv_heads)
        config = {
            **of.described(), "hidden_size": of.live, "intermediate_size": small.ffn, "num_attention_heads": heads,
            "num_key_value_heads": small.kv_heads, "num_hidden_layers": small.layers, "vocab_size": small.vocabulary,
            "rms_norm_eps": of.folder.config["rms_norm_eps"],
        }
        q, kv = heads * large.head_dim, small.kv_heads * large.head_dim
        self._sizes = {"self_attn.q_proj": (q, of.live), "self_attn.k_proj": (kv, of.live), "self_attn.v_proj": (kv, of.live),
                       "self_attn.o_proj": (of.live, q), "mlp.gate_proj": (small.ffn, of.live),
                       "mlp.up_proj": (small.ffn, of.live), "mlp.down_proj": (of.live, small.ffn)}
        super().__init__(of, store, config, copies=of.live // small.width)

    def _head(self, held: Tensors) -> Tensors:
        return _first(held, "lm_head", self._of.small.vocabulary, self._of.live)

    def _layer(self, index: int, held: Tensors) -> Tensors:
        made = {f"{name}.weight": self._norm(held[f"{name}.weight"]) for name in NORMS}
        for name, sizes in self._sizes.items():
            made |= _first(held, name, *sizes)
        biases = {f"{name}.bias": self._sizes[name][0] for name in BIASED if f"{name}.bias" in held}
        return {**made, **{name: held[name][:rows].clone() for name, rows in biases.items()}}


def _first(held: Tensors, name: str, rows: int, columns: int) -> Tensors:
    """Those of a matrix, in tiles of their own."""
    codes, scales = held[f"{name}.weight"], held[f"{name}.scales"]
    groups = columns // GROUP
    blocks = groups * codes.shape[1] // scales.shape[1]
    return {f"{name}.weight": codes[: rows // TILE, :blocks].contiguous(),
            f"{name}.scales": scales[: rows // TILE, :groups].contiguous()}
