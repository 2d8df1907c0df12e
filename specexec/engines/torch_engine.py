"""A model in plain torch over any KV cache, on any device and in any dtype, its layers bound as they come."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Self

import torch

from specexec.engines.angles import Angles
from specexec.engines.architecture import Architecture
from specexec.engines.device import QUANTISED, ROUNDING
from specexec.engines.product import Product
from specexec.engines.tensors import EMBEDDING, HEAD, NORM, check_resident, shaped
from specexec.engines.torch_cache import kept
from specexec.engines.torch_layer import TorchLayer, doubled, normed
from specexec.engines.tree_engine import LARGEST_TREE
from specexec.engines.weights_engine import WeightsEngine
from specexec.errors import Interrupted
from specexec.kernels import rows
from specexec.kernels.library import instruction_set, version
from specexec.kv.cache import KVCache, Rows
from specexec.kv.quantised import Quantised
from specexec.kv.window import DenseWindow
from specexec.roles import Limits, WeightSource
from specexec.tree import ancestor_mask, depths


class _Pass:
    """One forward's rows, for each window there is."""

    def __init__(self, length: int, parents: Sequence[int], count: int, root: int | None, device: torch.device) -> None:
        self.parents, self.root, self.device = parents, root, device
        self.positions = [length + depth for depth in depths(parents)]
        self._all = torch.tensor(self.positions, device=device)
        self._own = self._all[-count:]
        self._visible = torch.from_numpy(ancestor_mask(parents, count)).to(device)
        self._rows: dict[int | None, Rows] = {}

    def rows(self, window: int | None) -> Rows:
        if window not in self._rows:
            first = torch.zeros_like(self._own) if window is None else (self._own + 1 - window).clamp(min=0)
            visible = self._visible & (self._all >= first[:, None])
            self._rows[window] = Rows(self._own, visible, first, self.parents, self.root)
        return self._rows[window]


def _rounding(cache: KVCache, dtype: torch.dtype) -> float:
    return (QUANTISED[cache.kind] if isinstance(cache, Quantised) else ROUNDING)[dtype]


class TorchEngine(WeightsEngine):
    """Implements Target. source: tensors by their published names, matrices in a dtype or as rowmajor codes and scales.

    config: one that families.admit returned. stop: asked between layers; True raises Interrupted.
    """

    def __init__(
        self, config: Architecture, source: WeightSource, cache: KVCache, vocabulary: int,
        device: torch.device, dtype: torch.dtype, stop: Callable[[], bool] = lambda: False,
        context: int | None = None, largest_tree: int = LARGEST_TREE,
    ) -> None:
        limits = Limits(context or config.max_position_embeddings, largest_tree, vocabulary)
        super().__init__(source, cache, limits, _rounding(cache, dtype), device)
        self.config, self.stop, self.dtype = config, stop, dtype
        self.angles = Angles(config.frequencies, config.rope_scaling, device)
        self._layers: dict[int, TorchLayer] = {}  # by the identity of the mapping each holds: streamed ones come again
        resident = source.resident()
        check_resident(resident, config)
        self.norm = shaped(resident, NORM, config.hidden_size)
        head = HEAD if f"{HEAD}.weight" in resident or not config.tie_word_embeddings else EMBEDDING
        self.head = Product.of(resident, head, config.vocab_size, config.hidden_size)

    @property
    def arithmetic(self) -> str:
        ours = f"kernels {version()} ({instruction_set()}), " if rows.norms(self.device, self.dtype) else ""
        return f"{ours}torch {torch.__version__}, {self.dtype} on {self.device}"

    def keeping(self, kv: str) -> Self:
        other = self.over(kept(self.config, kv, self.device))
        other.rounding = _rounding(other.cache, self.dtype)
        return other

    def _window(self) -> KVCache:
        return DenseWindow(self.config.num_hidden_layers, self.config.frequencies)

    def _hidden(self, tokens: Sequence[int], parents: Sequence[int], root: int | None) -> torch.Tensor:
        of = _Pass(self.cache.length, parents, len(tokens), root, self.device)
        angles = doubled(self.angles.at(of.positions[-len(tokens) :])).to(self.dtype)
        x = self.source.embed(tokens).to(self.device, self.dtype)
        for index, window in enumerate(self.config.windows):
            if self.stop():
                raise Interrupted
            with self.source.layer(index) as tensors:
                x = self._layer(tensors).forward(x, angles, partial(self.cache.attend, index, rows=of.rows(window)))
        return x

    def _layer(self, tensors: Mapping[str, torch.Tensor]) -> TorchLayer:
        if id(tensors) not in self._layers:
            self._layers[id(tensors)] = TorchLayer(tensors, self.config)
        return self._layers[id(tensors)]

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return self.head(normed(states, self.norm, self.config.rms_norm_eps)).float()[:, : self.limits.vocabulary]
