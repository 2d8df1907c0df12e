"""Makes the bundled pair from a file of stories:

    python -m specexec.bundled.train ../shared/data/text/tinystories_5k.jsonl.gz --out specexec/bundled

Writes OUT/target and OUT/draft. An hour and a half on two cores, minutes on a GPU; losses go to stderr.
"""

import argparse
import json
import logging
import os
import random
import time
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from specexec.bundled import corpus, shapes
from specexec.bundled.distill import divergence, lessons, mean_divergence
from specexec.bundled.dropout import add_dropout
from specexec.bundled.fit import Schedule, cross_entropy, fit, nats_per_token, start
from specexec.bundled.write import write_stories

log = logging.getLogger(__name__)

TARGET_STEPS, DRAFT_STEPS, WRITTEN_STORIES, BATCH_TOKENS = 2500, 6000, 12_000, 4096


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_target(stories: corpus.Corpus, steps: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    target = LlamaForCausalLM(shapes.target()).to(device())
    start(target)
    hooks = add_dropout(target, 0.15)
    batches = corpus.rows(stories.train, BATCH_TOKENS, random.Random(seed))
    loss = fit(target, batches, cross_entropy(target), lambda: nats_per_token(target, stories.dev), Schedule(steps))
    for hook in hooks:
        hook.remove()
    log.info("target: %.4f nats a token on the dev stories", loss)
    return target


def train_draft(target: LlamaForCausalLM, stories: corpus.Corpus, steps: int, written: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    made = write_stories(target, written, seed)
    log.info("the target wrote %d stories, %d tokens", len(made), sum(map(len, made)))
    draft = LlamaForCausalLM(shapes.draft()).to(device())
    start(draft)
    judged = stories.dev[::2] + made[:50]
    batches = lessons(target, stories.train + made[50:], rng)
    loss = fit(draft, batches, partial(divergence, draft), lambda: mean_divergence(draft, target, judged),
               Schedule(steps, weight_decay=0.02, judge_every=500))
    log.info("draft: KL %.4f nats a token, half on dev stories, half on the target's own", loss)
    return draft


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """A folder plain transformers loads: bf16 safetensors, configuration, tokenizer."""
    model.to(torch.bfloat16).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False, model_max_length=shapes.CONTEXT,
    ).save_pretrained(folder)
    defaults = {"bos_token_id": corpus.BOS, "eos_token_id": corpus.EOS, "do_sample": True, "temperature": 0.7, "top_p": 0.95}
    (folder / "generation_config.json").write_text(json.dumps(defaults, indent=2) + "\n")
    model.float()


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stories", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target-steps", type=int, default=TARGET_STEPS)
    parser.add_argument("--draft-steps", type=int, default=DRAFT_STEPS)
    parser.add_argument("--written", type=int, default=WRITTEN_STORIES)
    parser.add_argument("--keep-target", action="store_true", help="teach a draft for the target that lies in OUT")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    chosen = options()
    began = time.monotonic()
    stories, kept = corpus.read_stories(chosen.stories), chosen.out / "target"
    if not chosen.keep_target:
        tokenizer = corpus.train_tokenizer(stories["train"], shapes.VOCABULARY)
        save(train_target(corpus.encode(tokenizer, stories), chosen.target_steps, chosen.seed), tokenizer, kept)
    tokenizer = Tokenizer.from_file(str(kept / "tokenizer.json"))
    ids = corpus.encode(tokenizer, stories)
    target = LlamaForCausalLM.from_pretrained(kept, dtype=torch.float32).to(device()).eval()  # as rounded to bf16
    draft = train_draft(target, ids, chosen.draft_steps, chosen.written, chosen.seed)
    save(draft, tokenizer, chosen.out / "draft")
    log.info("%.0f minutes on %d threads, pid %d", (time.monotonic() - began) / 60, torch.get_num_threads(), os.getpid())


if __name__ == "__main__":
    main()
