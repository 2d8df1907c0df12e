"""transformers and accelerate in bf16: what fits stays in memory, the rest is read from the published shards at each token."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import accelerate
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from tests.benchmarks.streaming_peers.figures import Figures, cores, measure

OWN = 2**30  # bytes of --ram for Python, torch, activations, and pages of the layer being read


class Offloaded:
    """Implements Decoder. budget: bytes of weights that may stay in memory."""

    def __init__(self, path: Path, budget: int, scratch: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, device_map="auto",
                                                           max_memory={"cpu": budget}, offload_folder=scratch)
        self._cache = DynamicCache(config=self._model.config)
        kept = sum(weight.nbytes for weight in self._model.parameters() if not weight.is_meta)
        print(f"accelerate keeps {kept / 1e9:.2f} GB of weights in memory")

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int]) -> int:
        out = self._model(input_ids=torch.tensor([tokens]), past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        return int(out.logits[0, -1].argmax())


def run(path: Path, ram: int, count: int) -> Figures:
    if ram <= OWN:
        sys.exit("accelerate itself takes a gigabyte.\na --ram above 1GiB")
    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory() as scratch:
        return measure(f"accelerate {accelerate.__version__}", path, ram, count, lambda: Offloaded(path, ram - OWN, scratch))
