"""Plain decoding of a random model of Llama-3.2-1B's shape on the CPU kernels: a part of benchmark kernels."""

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from specexec.engines.architecture import Architecture
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.kernels import memory, table
from specexec.tree import DraftTree
from tests.benchmarks.kernel_linear import packed
from tests.benchmarks.machine import Machine
from tests.benchmarks.timing import alternate

SHAPE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 8192,
}
PROMPT, TOKENS = 64, 30
ASKED = 0.8  # of the bandwidth


@dataclass(frozen=True)
class Cell:
    """Seconds a token and bytes of weights a token reads; python: seconds of a layer with kernels that do nothing."""

    bits: int
    seconds: float
    bytes: int
    read: float
    python: float
    outside: float  # the same of all that is no layer
    elsewhere: float

    @property
    def share(self) -> float:
        return self.bytes / self.seconds / self.read

    def complaints(self) -> list[str]:
        cell = f"1B decode, {self.bits}-bit activations"
        return [f"{cell}: {self.share:.2f} of the bandwidth"] if self.share < ASKED else []


class Random:
    """Implements WeightSource: packed random matrices of nf4, an int8 head."""

    def __init__(self, config: Architecture) -> None:
        width, ffn, kv = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_dim
        q = config.num_attention_heads * config.head_dim
        self._shapes = {"self_attn.q_proj": (q, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
                        "self_attn.o_proj": (width, q), "mlp.gate_proj": (ffn, width), "mlp.up_proj": (ffn, width),
                        "mlp.down_proj": (width, ffn)}
        self._width = width
        self._layers = [self._layer() for _ in range(config.num_hidden_layers)]
        self._resident = {"model.embed_tokens.weight": torch.randn(config.vocab_size, width).bfloat16(),
                          "model.norm.weight": torch.ones(width),
                          **memory.together(self._matrix("lm_head", "int8", config.vocab_size, width))}

    def _matrix(self, name: str, kind: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
        made = packed(kind, rows, columns)
        return {f"{name}.weight": made.codes, f"{name}.scales": made.scales}

    def _layer(self) -> dict[str, torch.Tensor]:
        tensors = {f"{name}_layernorm.weight": torch.ones(self._width) for name in ("input", "post_attention")}
        for name, shape in self._shapes.items():
            tensors |= self._matrix(name, "nf4", *shape)
        return memory.together(tensors)

    def resident(self) -> Mapping[str, torch.Tensor]:
        return self._resident

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._resident["model.embed_tokens.weight"][torch.tensor(tokens)]

    @contextmanager
    def layer(self, index: int) -> Iterator[Mapping[str, torch.Tensor]]:
        yield self._layers[index]

    def read(self) -> int:
        """Bytes of weights that a token reads: all but the embedding."""
        head = self._resident["lm_head.weight"].nbytes + self._resident["lm_head.scales"].nbytes
        return head + sum(tensor.nbytes for layer in self._layers for tensor in layer.values())


class Decoder:
    """Continues a random prompt greedily, a token a call."""

    def __init__(self, config: Architecture, source: Random, bits: int) -> None:
        self.engine = KernelEngine(config, source, config.vocab_size, bits)
        self.context = torch.randint(config.vocab_size, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()

    def __call__(self) -> None:
        self.engine.sync(self.context[:-1])
        picks: list[int] = []
        self.engine.forward(DraftTree((self.context[-1],)), lambda _, logits: picks.append(int(logits.argmax())))
        self.context += picks


@contextmanager
def idle_kernels() -> Iterator[None]:
    """In the place of every kernel a C function that only returns: what is left is Python's."""
    kernels = table.needed()
    address = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value
    held = {name: getattr(kernels, name) for name in table.SIGNATURES}
    try:
        for name, arguments in table.SIGNATURES.items():
            setattr(kernels, name, ctypes.CFUNCTYPE(None, *arguments)(address))
        yield
    finally:
        for name, kernel in held.items():
            setattr(kernels, name, kernel)


def pythons(config: Architecture, source: Random, bits: int, rounds: int) -> tuple[float, float]:
    """(seconds of a layer, seconds of the rest of a pass) that are no kernel's: by passes of all layers and of one."""
    one = admit(SHAPE | {"num_hidden_layers": 1})
    with idle_kernels():
        arms: dict[str, Callable[[], object]] = {"all": Decoder(config, source, bits), "one": Decoder(one, source, bits)}
        seconds = alternate(arms, rounds).seconds
    layer = (seconds["all"] - seconds["one"]) / (config.num_hidden_layers - 1)
    return layer, seconds["one"] - layer


def measure(machine: Machine, rounds: int) -> list[Cell]:
    config = admit(SHAPE)
    source = Random(config)
    arms: dict[str, Callable[[], object]] = {str(bits): Decoder(config, source, bits) for bits in (8, 16)}
    timed = alternate(arms | machine.arms(machine.read), max(rounds, TOKENS // 3))
    rate = machine.rates(timed.seconds)[machine.read]
    cells = [Cell(int(bits), timed.seconds[bits], source.read(), rate, 0.0, 0.0, timed.elsewhere) for bits in arms]
    return [replace(c, python=layer, outside=rest) for c in cells for layer, rest in [pythons(config, source, c.bits, rounds)]]


def show(cells: list[Cell]) -> str:
    lines = ["1B-class decode, nf4 with an int8 head, one token a pass", "",
             "| activations | ms a token | weights MB | GB/s | of reads | Python us a layer | us besides | others |",
             "|---:|" + "---:|" * 7]
    lines += [f"| {c.bits} | {1e3 * c.seconds:.2f} | {c.bytes / 1e6:.0f} | {c.bytes / c.seconds / 1e9:.1f} | {c.share:.0%} "
              f"| {1e6 * c.python:.1f} | {1e6 * c.outside:.0f} | {c.elsewhere:.2f} |" for c in cells]
    return "\n".join(lines)
