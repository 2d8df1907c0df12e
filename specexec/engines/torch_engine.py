"""A transformers model over any KV cache, its weights bound layer by layer as they come."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, PretrainedConfig

from specexec.engines import attention
from specexec.engines.device import ROUNDING
from specexec.errors import ContextFull, Damaged, Interrupted
from specexec.kv.cache import KVCache, Rows
from specexec.roles import Limits, Reader, WeightSource
from specexec.tree import ROOT, DraftTree, ancestor_mask, depths

READER_ROWS = 64
READER_BYTES = 2**23  # larger temporaries are mapped and faulted in anew each time: up to 10 times slower, measured
LARGEST_TREE = 2048


def bind(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Makes `tensors` the parameters of those names in `module`; nothing is copied."""
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        try:
            place = module.get_submodule(owner)
        except AttributeError as error:
            raise Damaged(f'tensor "{name}" is unknown to the model.', hint="fetch the model again") from error
        expected = place._parameters.get(leaf)
        if expected is None or expected.shape != tensor.shape:
            found = "is unknown to the model" if expected is None else f"is {list(expected.shape)} in the model"
            raise Damaged(f'tensor "{name}", {list(tensor.shape)}, {found}.', hint="fetch the model again")
        place._parameters[leaf] = tensor  # type: ignore[assignment]  # a view of a buffer, no Parameter: 0.8 us


def check_whole(module: torch.nn.Module, where: str) -> None:
    """Raises Damaged where a parameter of `module` was never bound: it would compute with nothing, without a word."""
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            raise Damaged(f"the model lacks {where}{name}.", hint="fetch the model again")


class _Run:
    """One forward's rows: implements attention.Run."""

    def __init__(self, cache: KVCache, positions: list[int], visible: torch.Tensor, device: torch.device) -> None:
        self.cache, self.attended = cache, 0
        self.all_positions = torch.tensor(positions, device=device)
        self.visible = visible.to(device)
        self.positions = self.all_positions[-len(visible) :]
        self._rows: dict[tuple[int | None, float | None], Rows] = {}

    def rows(self, window: int | None, softcap: float | None) -> Rows:
        if (window, softcap) not in self._rows:
            self._rows[window, softcap] = self._make(window, softcap)
        return self._rows[window, softcap]

    def _make(self, window: int | None, softcap: float | None) -> Rows:
        first = torch.zeros_like(self.positions) if window is None else (self.positions + 1 - window).clamp(min=0)
        return Rows(self.positions, self.visible & (self.all_positions >= first[:, None]), first, softcap)


class TorchEngine:
    """Implements Engine.

    config: one that families.admit returned. stop: asked between layers; True raises Interrupted.
    rounding: logits closer than this may trade places when the shape of the passes changes.
    passes: forwards of the whole model so far, each of which streams every weight once.
    """

    def __init__(
        self, config: PretrainedConfig, source: WeightSource, cache: KVCache, vocabulary: int,
        device: torch.device, dtype: torch.dtype, stop: Callable[[], bool] = lambda: False,
        context: int | None = None, largest_tree: int = LARGEST_TREE,
    ) -> None:
        self.cache, self.source, self.stop, self.device = cache, source, stop, device
        self.rounding = ROUNDING[dtype]
        self._limits = Limits(context or config.max_position_embeddings, largest_tree, vocabulary)
        self.passes = 0
        self._tokens: list[int] = []
        self._held = ExitStack()
        self._bound: dict[int, Mapping[str, torch.Tensor]] = {}  # what each layer computes with
        self.model = self._build(config, dtype)

    @property
    def limits(self) -> Limits:
        return self._limits

    def sync(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)

    @torch.inference_mode()
    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        self._check_room(tree)
        self._settle(tree, first)
        missing = self._tokens[self.cache.length :]
        while len(missing) > self.limits.tree:
            chunk, missing = missing[: self.limits.tree], missing[self.limits.tree :]
            self._evaluate(chunk, range(ROOT, len(chunk) - 1))
            self.cache.rebase(range(len(chunk)))
        above = len(missing) - 1  # the row above node 0
        parents = [above if p == ROOT else p + len(missing) for p in tree.parents[first:]]
        hidden = self._evaluate([*missing, *tree.tokens[first:]], [*range(ROOT, above), *parents])
        self._read(hidden[len(missing) :], reader, first)

    def _check_room(self, tree: DraftTree) -> None:
        deepest = len(self._tokens) + max(tree.depth)
        if deepest >= self.limits.context:
            raise ContextFull(f"position {deepest:,} is asked for, the context is {self.limits.context:,}.",
                              hint="a shorter prompt, or a larger --ctx-size")

    def _settle(self, tree: DraftTree, first: int) -> None:
        """Makes the cache hold a prefix of the tokens, as long as it can be, and of the tree its first nodes."""
        kept = _common(self.cache.tokens, self._tokens)
        if kept < self.cache.length:
            self.cache.truncate(kept)
        missing = self._tokens[self.cache.length :]
        path = self.cache.branches.walk(missing)
        if first and len(path) < len(missing):
            raise ValueError("nodes before `first` cannot have been evaluated: tokens above node 0 are missing")
        self.cache.rebase(path, self._survivors(tree, first, path[-1] if path else ROOT))

    def _survivors(self, tree: DraftTree, first: int, end: int) -> list[int]:
        rows: list[int] = []
        for token, parent in zip(tree.tokens[:first], tree.parents[:first], strict=True):
            row = self.cache.branches.child(end if parent == ROOT else rows[parent], token)
            if row is None:
                raise ValueError("nodes before `first` were not evaluated by an earlier call")
            rows.append(row)
        return rows

    def _evaluate(self, tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        """Last hidden states [n, width]; the rows join the cache's tree. parents: rows of that tree, or ROOT."""
        all_parents = [*self.cache.branches.parents, *parents]
        positions = [self.cache.length + depth for depth in depths(all_parents)]
        visible = torch.from_numpy(ancestor_mask(all_parents)[-len(tokens) :])
        run = _Run(self.cache, positions, visible, self.device)
        with self._held:
            ids = torch.tensor([tokens], device=self.device)
            out = self.model.model(ids, position_ids=run.positions[None], use_cache=False, run=run)
        if run.attended != len(self.model.model.layers):
            raise RuntimeError(f"{run.attended} of {len(self.model.model.layers)} layers asked for attention")
        self.cache.admit(tokens, parents)
        self.passes += 1
        return out.last_hidden_state[0]  # type: ignore[no-any-return]

    def _read(self, hidden: torch.Tensor, reader: Reader, first: int) -> None:
        rows = max(1, min(READER_ROWS, READER_BYTES // (4 * self.limits.vocabulary)))
        for start in range(0, len(hidden), rows):
            logits = self.model.lm_head(hidden[start : start + rows])
            reader(first + start, logits[:, : self.limits.vocabulary].float())

    def _build(self, config: PretrainedConfig, dtype: torch.dtype) -> Any:
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME, dtype=dtype)
        model.eval()
        bind(model, self.source.resident())
        if config.tie_word_embeddings:
            model.lm_head._parameters["weight"] = model.model.embed_tokens._parameters["weight"]
        model.model.rotary_emb.to(self.device)
        for name, part in model.model.named_children():
            if part is not model.model.layers:
                check_whole(part, f"model.{name}.")
        check_whole(model.lm_head, "lm_head.")
        for index, layer in enumerate(model.model.layers):
            layer.register_forward_pre_hook(self._enter(index))
            layer.register_forward_hook(lambda *_: self._held.close())
        return model

    def _enter(self, index: int) -> Callable[[torch.nn.Module, Any], None]:
        def hook(layer: torch.nn.Module, _: Any) -> None:
            if self.stop():
                raise Interrupted
            tensors = self._held.enter_context(self.source.layer(index))
            if self._bound.get(index) is not tensors:
                bind(layer, tensors)
                check_whole(layer, f"model.layers.{index}.")
                self._bound[index] = tensors

        return hook


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    if list(a) == list(b[: len(a)]):
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
