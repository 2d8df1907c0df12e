"""A transformers model over any KV cache, its weights bound layer by layer as they come."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
import transformers
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from specexec.engines import attention
from specexec.engines.architecture import Architecture
from specexec.engines.device import QUANTISED, ROUNDING
from specexec.engines.quant_linear import quantise_linears
from specexec.engines.torch_cache import kept
from specexec.engines.tree_engine import LARGEST_TREE
from specexec.engines.weights_engine import WeightsEngine
from specexec.errors import Damaged, Interrupted
from specexec.kv.cache import KVCache, Rows
from specexec.kv.quantised import Quantised
from specexec.kv.window import DenseWindow
from specexec.roles import Limits, WeightSource
from specexec.tree import ancestor_mask, depths


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


def published(raw: Mapping[str, Any]) -> PretrainedConfig:
    """transformers' own configuration of an admitted model. Raises Damaged."""
    try:
        return AutoConfig.for_model(**copy.deepcopy(dict(raw)))  # which completes nested entries in place
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        raise Damaged(f"config.json does not describe a model: {error}", hint="fetch the model again") from error


class _Run:
    """One forward's rows: implements attention.Run."""

    def __init__(self, cache: KVCache, parents: Sequence[int], count: int, root: int | None, device: torch.device) -> None:
        self.cache, self.parents, self.root, self.attended = cache, parents, root, 0
        self.all_positions = torch.tensor([cache.length + depth for depth in depths(parents)], device=device)
        self.visible = torch.from_numpy(ancestor_mask(parents)[-count:]).to(device)
        self.positions = self.all_positions[-count:]
        self._rows: dict[tuple[int | None, float | None], Rows] = {}

    def rows(self, window: int | None, softcap: float | None) -> Rows:
        if (window, softcap) not in self._rows:
            self._rows[window, softcap] = self._make(window, softcap)
        return self._rows[window, softcap]

    def _make(self, window: int | None, softcap: float | None) -> Rows:
        first = torch.zeros_like(self.positions) if window is None else (self.positions + 1 - window).clamp(min=0)
        visible = self.visible & (self.all_positions >= first[:, None])
        return Rows(self.positions, visible, first, self.parents, softcap, self.root)


def _rounding(cache: KVCache, dtype: torch.dtype) -> float:
    return (QUANTISED[cache.kind] if isinstance(cache, Quantised) else ROUNDING)[dtype]


class TorchEngine(WeightsEngine):
    """Implements Engine with a transformers model.

    config: one that families.admit returned. stop: asked between layers; True raises Interrupted. quant: the format of the
    source's matrices (rowmajor; the head is int8), None for plain ones.
    """

    def __init__(
        self, config: Architecture, source: WeightSource, cache: KVCache, vocabulary: int,
        device: torch.device, dtype: torch.dtype, stop: Callable[[], bool] = lambda: False,
        context: int | None = None, largest_tree: int = LARGEST_TREE, quant: str | None = None,
    ) -> None:
        limits = Limits(context or config.max_position_embeddings, largest_tree, vocabulary)
        super().__init__(source, cache, limits, _rounding(cache, dtype), device)
        self.config, self.stop, self.dtype = config, stop, dtype
        self._held = ExitStack()
        self._bound: dict[int, Mapping[str, torch.Tensor]] = {}  # what each layer computes with
        self.model = self._build(dtype, quant)

    @property
    def arithmetic(self) -> str:
        return f"transformers {transformers.__version__}, torch {torch.__version__}, {self.dtype} on {self.device}"

    def keeping(self, kv: str) -> Self:
        other = self.over(kept(self.config, kv, self.device))
        other.rounding = _rounding(other.cache, self.dtype)
        return other

    def _window(self) -> KVCache:
        return DenseWindow(self.config.num_hidden_layers, self.config.frequencies)

    def _hidden(self, tokens: Sequence[int], parents: Sequence[int], root: int | None) -> torch.Tensor:
        run = _Run(self.cache, parents, len(tokens), root, self.device)
        rows = self.source.embed(tokens).to(self.device, self.dtype)
        with self._held:
            out = self.model.model(inputs_embeds=rows[None], position_ids=run.positions[None], use_cache=False, run=run)
        if run.attended != len(self.model.model.layers):
            raise RuntimeError(f"{run.attended} of {len(self.model.model.layers)} layers asked for attention")
        return out.last_hidden_state[0]  # type: ignore[no-any-return]

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(states).float()[:, : self.limits.vocabulary]  # type: ignore[no-any-return]

    def _build(self, dtype: torch.dtype, quant: str | None) -> Any:
        config = published(self.config.raw)
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME, dtype=dtype)
        model.eval()
        if quant:
            quantise_linears(model, quant)
        resident = self.source.resident()
        bind(model, resident)
        if self.config.tie_word_embeddings and not quant and "lm_head.weight" not in resident:
            model.lm_head._parameters["weight"] = model.model.embed_tokens._parameters["weight"]
        model.model.rotary_emb.to(self.device)
        for name, part in model.model.named_children():
            if part not in (model.model.layers, model.model.embed_tokens):
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
