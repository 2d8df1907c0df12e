"""The engine of a model: our kernels where weights are quantised and the CPU runs them, else transformers'."""

import atexit
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch

from cli import llamacpp
from cli.chunk import prompt_chunk
from cli.kv import away, check_place, of_device
from cli.ledger import STORE_CONTEXT, check_vram, demand, planned, positions, resident_weights, sizes
from cli.loading import of_folder, of_store
from cli.models import Model, ModelOptions
from cli.values import AUTO, Nodes
from offload.cuda import cuda, free_vram
from offload.device_buffer import cast_bytes
from offload.device_plan import on_device, plan_device
from offload.errors import TooLittleMemory
from offload.folder import Folder, Form, stored
from offload.footprint import footprint
from offload.form import Plain, Quantised
from offload.gguf import Gguf
from offload.machine import free_memory
from offload.plan import HOST, Placement, check_resident
from offload.store import Store
from offload.streamed import open_device_stream, open_streamer
from specexec.engines.architecture import Architecture
from specexec.engines.device import DTYPES, choose_device, choose_dtype
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.product import check_cuda
from specexec.engines.torch_cache import kept
from specexec.engines.torch_engine import TorchEngine
from specexec.engines.tree_engine import LARGEST_TREE, TreeEngine
from specexec.errors import WrongUsage
from specexec.kernels import memory
from specexec.kernels.library import REFERENCE, instruction_set
from specexec.kv.backing import MakeBacking
from specexec.kv.dense import DenseCache
from specexec.roles import WeightSource

CPU = torch.device("cpu")
ROOMS = (Nodes.LARGEST, Nodes.LARGEST // 2)  # nodes that a device has time for while weights come over a bus
MORE = 1 / 8  # of the layers that stream, so many more at the most for the sake of those


def store_device(store: Store, options: ModelOptions) -> torch.device:
    """Where a store is computed: on CUDA where there is a device and the layout is its own, else on the CPU."""
    found = choose_device(options.device)
    if options.device == "mps":
        raise WrongUsage("stores are streamed to the CPU and to CUDA alone.", hint="--device cpu")
    if found.type == "cuda" and store.layout != "tile16":
        return found
    if found.type == "cuda" and (options.device == "cuda" or options.vram):
        raise WrongUsage(f"{store.path} is laid out for the CPU's kernels.",
                         hint=f"specexec convert {store.path} --layout rowmajor")
    return CPU


def draft_quant(options: ModelOptions) -> str | None:
    """What a draft is quantised to as it is loaded: where our kernels run, at least int8 costs no guesses and is far faster."""
    ours = choose_device(options.device) == CPU and instruction_set() != REFERENCE and options.dtype == "auto"
    return options.quant or ("int8" if ours else None)


@dataclass(frozen=True)
class Making:
    """What every engine of a model is made with. drafts: bytes of what drafts for it; copy: of a layer's low-bit one, or 0."""

    model: Model
    options: ModelOptions
    tokens: int  # that its tokenizer can produce
    stop: Callable[[], bool]
    drafts: int = 0
    copy: int = 0

    def engine(self) -> TreeEngine:
        config = admit(self.model.config)
        check_place(self.model, self.options.kv_place, self._device())
        if isinstance(self.model, Gguf):
            return llamacpp.engine(self.model, self.options, self.tokens, self.stop, self.drafts)
        check_vram(self.options.vram, self.options.device)
        return self._of_store(self.model, config) if isinstance(self.model, Store) else self._of_folder(self.model, config)

    def _device(self) -> torch.device:
        """Where it is computed."""
        store, options = self.model, self.options
        return store_device(store, options) if isinstance(store, Store) else choose_device(options.device)

    def _of_folder(self, folder: Folder, config: Architecture) -> TreeEngine:
        if self.options.vram:
            raise WrongUsage(f"--vram bounds converted models; {folder.path} is one as published.",
                             hint=f"specexec convert {folder.path} --layout rowmajor")
        context = positions(config, self.options.context, config.max_position_embeddings)
        device, quant = choose_device(self.options.device), self.options.quant
        if self.options.context and device == CPU:
            position = footprint(folder.config, "bf16").kv_position("bf16" if self.options.kv == AUTO else self.options.kv)
            check_resident(resident_weights(folder, self.options), position, context, free_memory(), folder.path)
        layers, tied, tree = config.num_hidden_layers, config.tie_word_embeddings, max(LARGEST_TREE, self.options.tree)
        if quant and device == CPU and instruction_set() != REFERENCE:
            form = Quantised(quant, "tile16", tied, CPU, torch.float32)
            weights = of_folder(folder, layers, tied, form, self.options, memory.together)
            return self._kernels(config, weights, context, self.options.kv, tree)
        dtype = choose_dtype(self.options.dtype, *stored(folder))
        other: Form = Quantised(quant, "rowmajor", tied, device, dtype) if quant else Plain(device, dtype)
        weights, cache = of_folder(folder, layers, tied, other, self.options), kept(config, self.options.kv, device, context)
        return self._torch(config, weights, context, device, dtype, tree, cache)

    def _of_store(self, store: Store, config: Architecture) -> TreeEngine:
        quant = None if store.quant == "bf16" else store.quant
        context, device = positions(config, self.options.context, STORE_CONTEXT), store_device(store, self.options)
        if device != CPU:
            return self._on_cuda(store, config, context, device, quant)
        if store.layout == "tile16" and instruction_set() == REFERENCE:
            raise WrongUsage(f"{store.path} is laid out for compiled kernels, and there are none.",
                             hint=f"specexec convert {store.path} --layout rowmajor")
        ram = self.options.ram or free_memory()
        placed, chunk = self._placed(store, context, ram)  # what it keeps in memory is read; the rest will stream
        with of_store(store, placed, self.options) as told:
            weights = open_streamer(store, placed, told)
        if store.layout == "tile16":
            return self._kernels(config, weights, context, placed.kv, self.options.tree, chunk,
                                 away(store, placed.place, atexit.register))
        return self._torch(config, weights, context, CPU, torch.float32 if quant else torch.bfloat16,
                           max(LARGEST_TREE, self.options.tree), kept(config, placed.kv, CPU, context))

    def _on_cuda(
        self, store: Store, config: Architecture, context: int, device: torch.device, quant: str | None,
    ) -> TreeEngine:
        if quant:
            check_cuda(quant)
        auto = quant is None or self.options.dtype == "auto"
        dtype = torch.bfloat16 if auto else DTYPES[self.options.dtype]
        tree, placed = self.roomiest(store, context, self.options.vram or free_vram(device), dtype)
        lanes = cuda(device)
        with of_store(store, placed, self.options) as told:
            weights = open_device_stream(store, placed, lanes, dtype, told)
        atexit.register(weights.close)  # a thread that still copies must not meet CUDA's own end
        cache = of_device(config, placed.kv, context, 2 * tree, placed.place, lanes, dtype, atexit.register)
        return self._torch(config, weights, context, device, dtype, tree, cache)

    def roomiest(self, store: Store, context: int, vram: int, dtype: torch.dtype) -> tuple[int, Placement]:
        """Rows of the largest tree, as many as may be worth it where no number is given. Raises TooLittleMemory."""
        placed = self.device_placement(store, context, vram, dtype)
        streamed = len(store.layers) - placed.on_device
        for nodes in ROOMS if self.options.nodes is None else ():
            larger = replace(self, options=replace(self.options, nodes=nodes))
            with suppress(TooLittleMemory):
                found = larger.device_placement(store, context, vram, dtype)
                if len(store.layers) - found.on_device <= (1 + MORE) * streamed:
                    return larger.options.tree, found
        return self.options.tree, placed

    def device_placement(self, store: Store, context: int, vram: int, dtype: torch.dtype) -> Placement:
        """--kv-place auto is the device, where that is enough; --kv auto is bf16. Raises TooLittleMemory."""
        kv, place = "bf16" if self.options.kv == AUTO else self.options.kv, self.options.kv_place
        of, wanted = sizes(store), replace(demand(context, self.options.tree, self.drafts, place=place), kv=kv)
        cast = max(cast_bytes(store.spans(name), dtype) for name in store.layers)
        taken = on_device(store.config, of, wanted, dtype.itemsize, cast)
        placing = partial(plan_device, of, taken, self.options.ram or free_memory(), vram)
        try:
            return placing(wanted)
        except TooLittleMemory:
            if place == AUTO:
                with suppress(TooLittleMemory):
                    return placing(replace(wanted, place=HOST))
            raise

    def placement(self, store: Store, context: int) -> Placement:
        return self._placed(store, context, self.options.ram or free_memory())[0]

    def _placed(self, store: Store, context: int, ram: int) -> tuple[Placement, int]:
        """And how much of a prompt a pass reads. ram: bytes that may be used in all. Raises TooLittleMemory."""
        kv = self.options.kv if store.layout == "tile16" or self.options.kv != AUTO else "bf16"
        of, tree, place = sizes(store), self.options.tree, self.options.kv_place
        least = demand(context, tree, self.drafts, place=place, copy=self.copy)
        least = replace(least, kv=planned(of, ram, least, kv).kv)
        chunk = prompt_chunk(store, ram, least, tree, self.options.activations)
        return planned(of, ram, demand(context, tree, self.drafts, chunk, place, self.copy), least.kv), chunk

    def _kernels(
        self, config: Architecture, weights: WeightSource, context: int, kv: str, tree: int,
        chunk: int = 0, away: MakeBacking | None = None,
    ) -> KernelEngine:
        tokens = min(config.vocab_size, self.tokens)
        return KernelEngine(config, weights, tokens, self.options.activations, self.stop, context, tree, kv, chunk, away)

    def _torch(
        self, config: Architecture, weights: WeightSource, context: int, device: torch.device, dtype: torch.dtype,
        tree: int, cache: DenseCache,
    ) -> TreeEngine:
        tokens = min(config.vocab_size, self.tokens)
        return TorchEngine(config, weights, cache, tokens, device, dtype, self.stop, context, tree)
