"""How well models know the dev stories:

    python -m tests.benchmarks.perplexity [FOLDER ...]

Each story from <s> in a window of its own of 512 tokens, the shortest context among the models; ends of stories are not
counted. Bits a character compare models of different vocabularies; the characters are those of the scored tokens.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import gzip
import json
import math
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
MODELS = [ROOT / "specexec" / "bundled" / "target", ROOT / "specexec" / "bundled" / "draft", SHARED / "models" / "stories260k"]
WINDOW = 512


def dev_stories() -> list[str]:
    with gzip.open(SHARED / "text" / "tinystories_5k.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [row["text"] for row in map(json.loads, lines) if row["split"] == "dev"]


@torch.inference_mode()
def judge(folder: Path, stories: list[str]) -> dict[str, float]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    nats = tokens = characters = 0.0
    for story in stories:
        ids = torch.tensor([tokenizer.encode(story)[: WINDOW + 1]])
        logits = model(ids[:, :-1], use_cache=False).logits
        nats += functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
        characters += len(tokenizer.decode(ids[0, 1:], skip_special_tokens=True))
    return {"parameters": model.num_parameters(), "nats_per_token": nats / tokens, "perplexity": math.exp(nats / tokens),
            "bits_per_character": nats / math.log(2) / characters, "tokens": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=MODELS)
    stories = dev_stories()
    found = {folder.name: judge(folder, stories) for folder in parser.parse_args().folders}
    for name, figures in found.items():
        print(name, " ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
