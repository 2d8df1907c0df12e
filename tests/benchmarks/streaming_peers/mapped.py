"""llama.cpp through llama-cpp-python's low-level interface: the file mapped, nothing locked, nothing repacked."""

import sys
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np

from tests.benchmarks.streaming_peers.figures import Figures, cores, measure

CONTEXT = 512
ERROR = 4  # ggml's level


@llama_cpp.llama_log_callback
def complain(level: int, text: bytes, _: object) -> None:
    if level == ERROR:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


class Mapped:
    """Implements Decoder."""

    def __init__(self, path: Path, threads: int) -> None:
        """Exits with two lines for a file that llama.cpp refuses; it says why on stderr."""
        params = llama_cpp.llama_model_default_params()
        params.load_mode, params.n_gpu_layers = llama_cpp.LLAMA_LOAD_MODE_MMAP, 0
        params.use_extra_bufts = False  # repacked weights would be copies in memory, no longer the file's pages
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            sys.exit(f"llama.cpp does not load {path}.\na file made by the command gguf")
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_threads, context.n_threads_batch = CONTEXT, threads, threads
        self._context = llama_cpp.llama_init_from_model(self._model, context)

    def decode(self, tokens: Sequence[int]) -> int:
        """Raises RuntimeError."""
        ids = (llama_cpp.llama_token * len(tokens))(*tokens)  # the batch points to it
        batch = llama_cpp.llama_batch_get_one(ids, len(ids))
        if status := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode: {status}")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, -1), (self._vocab,))
        return int(logits.argmax())


def run(path: Path, ram: int | None, count: int) -> Figures:
    llama_cpp.llama_log_set(complain, None)
    llama_cpp.llama_backend_init()
    return measure(f"llama.cpp (llama-cpp-python {llama_cpp.__version__})", path, ram, count, lambda: Mapped(path, cores()))
