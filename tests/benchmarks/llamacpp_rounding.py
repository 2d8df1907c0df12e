"""Whether llama.cpp by itself gives a token the same logits in passes of any width, by its types of keys and values.

    python -m tests.benchmarks.llamacpp_rounding FILE.gguf [--tokens 1000]

No tree and none of our engine: one sequence, evaluated token by token and then in passes of so many. Printed: the largest
difference of a logit from those of one thread, token by token, and how far these are from fp32 keys and values.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from specexec.engines.llamacpp import Model, library
from specexec.engines.llamacpp_context import BF16

F32, F16 = 0, 1
KINDS = {"fp16, fp16": (1, F16, F16), "fp16, fp16, not flash": (0, F16, F16), "fp16, bf16": (1, F16, BF16),
         "bf16, bf16": (1, BF16, BF16)}  # flash attention, types
WIDTHS = (1, 2, 8, 63, 64, 256)


def logits(model: Model, tokens: list[int], width: int, threads: int, flash: int, k: int, v: int) -> npt.NDArray[Any]:
    """fp32[n, V]"""
    llama = library()
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.kv_unified = len(tokens), 512, 512, True
    params.flash_attn_type, params.type_k, params.type_v = flash, k, v
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model.pointer, params)
    found = [_pass(llama, context, model, tokens[at : at + width], at) for at in range(0, len(tokens), width)]
    llama.llama_free(context)
    return np.concatenate(found)


def _pass(llama: Any, context: Any, model: Model, tokens: list[int], start: int) -> npt.NDArray[Any]:
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, start + i, 1, 1
        batch.seq_id[i][0] = 0
    assert llama.llama_decode(context, batch) == 0
    found = np.ctypeslib.as_array(llama.llama_get_logits(context), (len(tokens), model.vocabulary)).copy()
    llama.llama_batch_free(batch)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--tokens", type=int, default=1000)
    given = parser.parse_args()
    model = Model(given.file, 0)
    tokens = [int(one) for one in np.random.default_rng(0).integers(3, model.vocabulary, given.tokens)]
    exact = logits(model, tokens, 1, 1, 0, F32, F32)
    print(f"| keys, values | threads | {' | '.join(map(str, WIDTHS))} | rms from fp32 |")
    for name, kind in KINDS.items():
        alone = logits(model, tokens, 1, 1, *kind)
        for threads in (1, 2):
            off = [np.abs(logits(model, tokens, width, threads, *kind) - alone).max() for width in WIDTHS]
            rms = float(np.sqrt(np.square(alone - exact).mean()))
            print(f"| {name} | {threads} | {' | '.join(f'{one:.1g}' for one in off)} | {rms:.2g} |", flush=True)


if __name__ == "__main__":
    main()
