"""The engine of a model: our kernels where weights are quantised and the CPU runs them, else transformers'."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from cli.ledger import STORE_CONTEXT, demand, positions, sizes
from cli.models import Model, ModelOptions
from offload.folder import Folder, Form, ResidentWeights, stored
from offload.form import Plain, Quantised
from offload.machine import free_memory
from offload.plan import Placement, plan
from offload.store import Store
from offload.stream import Streamer
from offload.streamed import open_streamer
from specexec.engines.device import choose_device, choose_dtype
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.torch_engine import TorchEngine
from specexec.engines.tree_engine import LARGEST_TREE, TreeEngine
from specexec.errors import WrongUsage
from specexec.kernels.library import REFERENCE, instruction_set
from specexec.kv.dense import DenseCache
from specexec.roles import WeightSource

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Making:
    """What every engine of a model is made with. drafts: bytes of what drafts for it."""

    model: Model
    options: ModelOptions
    tokens: int  # that its tokenizer can produce
    stop: Callable[[], bool]
    drafts: int = 0

    def engine(self) -> TreeEngine:
        config = admit(self.model.config)
        return self._of_store(self.model, config) if isinstance(self.model, Store) else self._of_folder(self.model, config)

    def _of_folder(self, folder: Folder, config: PretrainedConfig) -> TreeEngine:
        context = positions(config, self.options.context, config.max_position_embeddings)
        device, quant = choose_device(self.options.device), self.options.quant
        layers, tied = config.num_hidden_layers, config.tie_word_embeddings
        if quant and device == CPU and instruction_set() != REFERENCE:
            weights = ResidentWeights(folder, layers, tied, Quantised(quant, "tile16", tied, CPU, torch.float32))
            return self._kernels(config, weights, context)
        dtype = choose_dtype(self.options.dtype, *stored(folder))
        form: Form = Quantised(quant, "rowmajor", tied, device, dtype) if quant else Plain(device, dtype)
        return self._torch(config, ResidentWeights(folder, layers, tied, form), context, device, dtype, quant)

    def _of_store(self, store: Store, config: PretrainedConfig) -> TreeEngine:
        quant = None if store.quant == "bf16" else store.quant
        if choose_device(self.options.device) != CPU and self.options.device != "auto":
            raise WrongUsage("stores are streamed to the CPU alone, as yet.", hint="--device cpu")
        if store.layout == "tile16" and instruction_set() == REFERENCE:
            raise WrongUsage(f"{store.path} is laid out for compiled kernels, and there are none.",
                             hint=f"specexec convert {store.path} --layout rowmajor")
        context = positions(config, self.options.context, STORE_CONTEXT)
        weights = self.streamer(store, context)
        if store.layout == "tile16":
            return self._kernels(config, weights, context, self.options.tree)
        return self._torch(config, weights, context, CPU, torch.float32 if quant else torch.bfloat16, quant)

    def streamer(self, store: Store, context: int) -> Streamer:
        """What the plan keeps in memory is read; the rest will stream."""
        return open_streamer(store, self.placement(store, context))

    def placement(self, store: Store, context: int) -> Placement:
        return plan(sizes(store), self.options.ram or free_memory(), demand(context, self.options.tree, self.drafts))

    def _kernels(self, config: PretrainedConfig, weights: WeightSource, context: int, tree: int = LARGEST_TREE) -> KernelEngine:
        tokens = min(config.vocab_size, self.tokens)
        return KernelEngine(config, weights, tokens, self.options.activations, self.stop, context, tree)

    def _torch(
        self, config: PretrainedConfig, weights: WeightSource, context: int, device: torch.device, dtype: torch.dtype,
        quant: str | None,
    ) -> TorchEngine:
        tokens = min(config.vocab_size, self.tokens)
        return TorchEngine(config, weights, DenseCache(config.num_hidden_layers), tokens, device, dtype, self.stop, context,
                           quant=quant)
