"""A quantised model on the CPU kernels: the same logits to the last bit in every tree, prefix and chunking."""

from collections.abc import Callable, Mapping, Sequence
from ctypes import addressof, byref, c_int32
from typing import Self

import torch

from specexec.engines.angles import Angles
from specexec.engines.architecture import Architecture
from specexec.engines.kernel_layer import KernelLayer, Step
from specexec.engines.tensors import HEAD, NORM, check, check_resident, packed, vector
from specexec.engines.tree_engine import LARGEST_TREE
from specexec.engines.weights_engine import WeightsEngine
from specexec.engines.workspace import Shape, Workspace
from specexec.errors import Interrupted
from specexec.kernels import attention, linear, table
from specexec.kernels.hierarchical import GROUP
from specexec.kernels.library import instruction_set, version
from specexec.kv.backing import BLOCK, KEPT, STEP, MakeBacking
from specexec.kv.blocks import BlockCache, KernelCache
from specexec.kv.cache import KVCache
from specexec.kv.hierarchical import HierarchicalCache
from specexec.kv.offloaded import OffloadedBlocks
from specexec.kv.offloaded_hierarchical import OffloadedHierarchical, page_record
from specexec.kv.quantised import BITS
from specexec.kv.window import BlockWindow
from specexec.roles import Limits, WeightSource
from specexec.tree import depths


class KernelEngine(WeightsEngine):
    """Implements Target. source: matrices in layout tile16 (name.weight codes, name.scales), norms and biases in fp32.

    config: one that families.admit returned. bits: of the activations, 8 or 16. stop: asked between layers; True raises
    Interrupted. kv: bf16, int8 or int4, the format of keys and values. chunk: tokens of a prompt that one pass reads, where
    that is more than largest_tree. away: makes what holds keys and values where they are not to be in memory.
    """

    def __init__(
        self, config: Architecture, source: WeightSource, vocabulary: int, bits: int,
        stop: Callable[[], bool] = lambda: False, context: int | None = None, largest_tree: int = LARGEST_TREE,
        kv: str = "bf16", chunk: int = 0, away: MakeBacking | None = None,
    ) -> None:
        self.config, self.shape = config, Shape.of(config)
        limits = Limits(context or config.max_position_embeddings, largest_tree, vocabulary, chunk)
        blocks = self._blocks(config.num_hidden_layers, limits, kv, away)
        super().__init__(source, blocks, limits, 0.0, torch.device("cpu"))
        self.blocks: KernelCache = blocks
        self.bits, self.stop = bits, stop
        self.angles, self.windows = Angles(config.frequencies, config.rope_scaling), config.windows
        resident = source.resident()
        check_resident(resident, config)
        self.norm = vector(resident, NORM, self.shape.width)
        self.head = packed(resident, HEAD, config.vocab_size, self.shape.width, "tile16")
        self._room = Workspace(self.shape, 1, bits)
        self._layers: dict[int, KernelLayer] = {}  # by the identity of the mapping each holds: streamed ones come again

    def _blocks(self, layers: int, limits: Limits, kv: str, away: MakeBacking | None) -> BlockCache:
        heads, dim, tree = self.shape.kv_heads, self.shape.head_dim, 2 * limits.tree  # and below one the rows of the next pass
        largest = max(tree, limits.chunk + limits.tree)  # rows of a pass
        if away is not None:
            return self._away(layers, limits, kv, away, largest)
        if kv in BITS:
            return HierarchicalCache(layers, heads, dim, BITS[kv], limits.context, largest)
        return BlockCache(layers, heads, dim, limits.context + tree)

    def _away(self, layers: int, limits: Limits, kv: str, away: MakeBacking, largest: int) -> BlockCache:
        """largest: rows of a pass."""
        heads, dim = self.shape.kv_heads, self.shape.head_dim
        if kv in BITS:
            backing = away(layers, 1, max(1, limits.context // GROUP), page_record(heads, dim, BITS[kv]))
            return OffloadedHierarchical(layers, heads, dim, BITS[kv], backing, largest)
        rows = -(-(limits.context + 2 * limits.tree) // BLOCK) * BLOCK
        backing = away(layers, 2 * heads, rows, 2 * attention.padded(dim))
        return OffloadedBlocks(layers, heads, dim, backing, KEPT + STEP + largest)

    @property
    def arithmetic(self) -> str:
        return f"kernels {version()} ({instruction_set()}), torch {torch.__version__}, {self.bits}-bit activations"

    def over(self, cache: KVCache, source: WeightSource | None = None) -> Self:
        other = super().over(cache, source)
        assert isinstance(cache, KernelCache)
        other.blocks, other._room, other._layers = cache, Workspace(self.shape, 1, self.bits), {}
        return other

    def keeping(self, kv: str) -> Self:
        return self.over(self._blocks(len(self.windows), self.limits, kv, None))

    def _window(self) -> KVCache:
        return BlockWindow(len(self.windows), self.shape.kv_heads, self.shape.head_dim, self.angles.frequencies)

    def _hidden(self, tokens: Sequence[int], parents: Sequence[int], root: int | None) -> torch.Tensor:
        n, length = len(tokens), self.blocks.length
        self._make_room(n)
        self.blocks.room(self.blocks.above + len(parents))
        positions = [length + depth for depth in depths(parents)[-n:]]
        steps, keep = self._steps(positions, parents)
        self._room.x[:n] = self.source.embed(tokens)
        for index, window in enumerate(self.windows):
            if self.stop():
                raise Interrupted
            with self.source.layer(index) as tensors, self.blocks.layer(index) as seen:
                self._layer(tensors).forward(steps[window], seen)
            if root is not None:
                self.blocks.asked(index, self._room.q[root])
        del keep
        return self._room.x[:n]

    def _steps(self, positions: list[int], parents: Sequence[int]) -> tuple[dict[int | None, Step], list[object]]:
        """A pass for each window there is, and the arrays they point into."""
        above, n, angles, of = self.blocks.above, len(positions), self.angles.at(positions), (c_int32 * len(parents))(*parents)
        first = {w: (c_int32 * n)(*([] if w is None else (max(0, at + 1 - w) for at in positions))) for w in set(self.windows)}
        row = above + len(parents) - n
        steps = {w: Step(angles, table.Pass(addressof(of), addressof(seen), above, len(of), n, table.threads()), row)
                 for w, seen in first.items()}
        return steps, [of, *first.values()]

    def _make_room(self, n: int) -> None:
        if n > self._room.most:
            self._room = Workspace(self.shape, max(n, 2 * min(self._room.most, self.limits.tree)), self.bits)
            self._layers.clear()
        self._room.use(n)

    def _layer(self, tensors: Mapping[str, torch.Tensor]) -> KernelLayer:
        if id(tensors) not in self._layers:
            check(tensors, self.config)
            self._layers[id(tensors)] = KernelLayer(tensors, self.shape, self._room)
        return self._layers[id(tensors)]

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        out, wide, kernels = torch.empty(len(states), self.head.rows), self._room.width, table.needed()
        wide.n = len(states)  # of a pass that is through
        kernels.norm_quantise(states.data_ptr(), self.norm.data_ptr(), self.shape.width, self.shape.eps, byref(wide))
        kernels.linear(byref(linear.matrix(self.head, out)), 1, byref(wide))
        return out[:, : self.limits.vocabulary]
