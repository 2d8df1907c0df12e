"""What a GGUF file takes of memory as llama.cpp runs it: all of it stays there."""

from dataclasses import dataclass

from offload.errors import TooLittleMemory
from offload.footprint import footprint
from offload.gguf import Gguf
from offload.plan import PROGRAM, Demand, Entry, gib, total


@dataclass(frozen=True)
class Whole:
    """gpu_layers: of the model, those whose weights go to a GPU."""

    ledger: tuple[Entry, ...]
    gpu_layers: int

    @property
    def bytes(self) -> int:
        return total(self.ledger)


def cell_bytes(model: Gguf) -> int:
    """Of keys and values of one position: fp16, or fp32 beside weights in fp32."""
    config = model.config
    return int(config["num_hidden_layers"] * 2 * config["num_key_value_heads"] * config["head_dim"] * (4 if model.wide else 2))


def plan_whole(model: Gguf, ram: int, vram: int, demand: Demand) -> Whole:
    """ram, vram: bytes that may be used in all; no vram where llama.cpp has no GPU. Raises TooLittleMemory."""
    of = footprint(model.config, "bf16")
    layers = of.layers
    layer = sum(info.nbytes for name, info in model.tensors.items() if name.startswith("blk.")) // layers
    on_gpu = min(vram // layer, layers)
    ledger = (
        Entry("program", PROGRAM),
        Entry("weights", sum(info.nbytes for info in model.tensors.values()) - on_gpu * layer),
        Entry("KV cache", cell_bytes(model) * (demand.context + demand.tree)),
        Entry("a pass's buffers", (of.work_token + 4 * of.vocabulary) * demand.tree),
        Entry("draft", demand.draft),
    )
    if total(ledger) > ram:
        raise TooLittleMemory(f"{model.path} needs {gib(total(ledger))} of memory, all of it in every pass;"
                              f" {gib(ram)} may be used.", hint=f"specexec convert {model.path}, which then streams")
    return Whole(ledger, on_gpu)
