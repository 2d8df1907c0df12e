"""Tokens a second of a GGUF file: ours beside llama-cpp-python's own greedy loop and its prompt-lookup drafting, by turns.

    python -m tests.benchmarks.gguf FILE.gguf [--draft NAME] [-n 64] [-r 5] [--alike] [--no-lookup]

All arms write greedily after the same ids, with the same threads; the context is dropped before each answer. Ours with
--budget auto is one session, which learns what pays. llama-cpp-python's own loops have its defaults (no flash attention),
whose rounding is another; with --alike they have our attention, and all arms write the same. The last line is JSON.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llama_cpp import Llama
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from cli.bench import PROMPTS, machine
from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from cli.session import AnswerOptions
from offload.gguf import Gguf
from specexec.__main__ import OBJECTS
from specexec.engines.device import TINY
from specexec.engines.llamacpp_context import BF16
from specexec.sampling import Sampling

Arm = Callable[[list[int], int], list[int]]
LOOKED_UP = "llama-cpp-python, prompt lookup"
LOOKUP = 10  # tokens that prompt lookup proposes, llama-cpp-python's default


def theirs(file: Path, context: int, threads: int, lookup: bool, alike: bool) -> Arm:
    draft = LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP) if lookup else None
    attention = {} if not alike else {"type_k": 0, "type_v": 0} if Gguf(file).wide else {"flash_attn": True, "type_v": BF16}
    llama = Llama(str(file), n_ctx=context, n_threads=threads, n_threads_batch=threads, logits_all=lookup, verbose=False,
                  draft_model=draft, **attention)

    def answer(prompt: list[int], count: int) -> list[int]:
        llama.reset()
        made = llama.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
        return [token for token, _ in zip(made, range(count), strict=False)]

    return answer


def ours(file: Path, drafts: tuple[str, ...], context: int, budget: int | None) -> Arm:
    session = open_session(ModelOptions(str(file), drafts, context=context), Interrupt())

    def answer(prompt: list[int], count: int) -> list[int]:
        session.target.cache.truncate(0)
        options = AnswerOptions(Sampling(0.0), 0, budget, count)
        made = session.begin(prompt, options)
        for _ in session.stream(made, prompt, options, 0):
            pass
        return list(made.answer.ids)

    return answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--draft", action="append")
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("-r", type=int, default=5)
    parser.add_argument("--alike", action="store_true")
    parser.add_argument("--no-lookup", action="store_true", help="without their prompt lookup: each arm has its own weights")
    given = parser.parse_args()
    gc.set_threshold(OBJECTS)  # as in the command itself
    of = Gguf(given.file)
    threads = 1 if of.parameters < TINY else torch.get_num_threads()
    context = min(2048, of.config["max_position_embeddings"])
    arms = {
        "llama-cpp-python": theirs(given.file, context, threads, False, given.alike),
        **({} if given.no_lookup else {LOOKED_UP: theirs(given.file, context, threads, True, given.alike)}),
        "plain": ours(given.file, ("none",), context, 0),
        "auto": ours(given.file, tuple(given.draft or ["lookup"]), context, None),
    }
    print(json.dumps(measured(given.file, arms, given.n, given.r) | {"machine": machine(), "threads": threads}))


def measured(file: Path, arms: dict[str, Arm], count: int, rounds: int) -> dict[str, Any]:
    from cli.codec import Codec

    codec = Codec(file)
    prompts = [codec.encode_first(text) for text in PROMPTS]
    rates: dict[str, list[float]] = {name: [] for name in arms}
    agree = 0
    for name in arms:
        arms[name](prompts[0], count)  # a warm-up
    for turn in range(rounds * len(prompts)):
        texts = {}
        for name in sorted(arms, reverse=bool(turn % 2)):
            began = time.perf_counter()
            texts[name] = arms[name](prompts[turn % len(prompts)], count)
            rates[name].append(len(texts[name]) / (time.perf_counter() - began))
        shortest = min(map(len, texts.values()))
        agree += len({tuple(text[:shortest]) for text in texts.values()}) == 1
    base = rates["llama-cpp-python"]
    found = {name: {"tokens_per_second": statistics.median(each),
                    "ratio": statistics.median(a / b for a, b in zip(each, base, strict=True))}
             for name, each in rates.items()}
    for name, row in found.items():
        print(f"| {name} | {row['tokens_per_second']:.1f} | {row['ratio']:.2f} |")
    return {"arms": found, "same_text": agree, "answers": rounds * len(prompts)}


if __name__ == "__main__":
    main()
