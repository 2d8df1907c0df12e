"""Which products suffer from 8-bit activations where there are outlier channels, and what would help:

    python -m tests.benchmarks.activation_rounding [FOLDER ...]

In plain torch: weights are dequantised int8 (or --kind nf4), activations are rounded before each product. Rises of perplexity
over activations that are not rounded, on the dev stories of perplexity.py. Markdown tables; one line of JSON comes last.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from offload.folder import Folder
from specexec.formats import dequantise, quantise
from specexec.kinds import GROUP
from tests.benchmarks import outliers
from tests.benchmarks.perplexity import MODELS, dev_stories
from tests.benchmarks.quantised_perplexity import Text, texts

PARTS = {"q k v": ("q_proj", "k_proj", "v_proj"), "o": ("o_proj",), "gate up": ("gate_proj", "up_proj"),
         "down": ("down_proj",), "head": ("lm_head",)}
EVERY = tuple(name for names in PARTS.values() for name in names)
SEEDS = (0, 1, 2)
MOST = {bits: 2 ** (bits - 1) - 1 for bits in (8, 9, 10, 12)}  # the largest code
FACTORS = (3.0, 10.0, 30.0, 100.0)
Rounding = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Grouped:
    """x = scale * q in groups. apart: a group's largest values that are kept as they are and leave the scale to the others."""

    group: int = GROUP
    bits: int = 8
    apart: int = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        groups = functional.pad(x, (0, -x.shape[-1] % self.group)).unflatten(-1, (-1, self.group))
        kept = torch.zeros_like(groups)
        if self.apart:
            at = groups.abs().topk(self.apart, -1).indices
            kept = kept.scatter(-1, at, groups.gather(-1, at))
        rest = groups - kept
        step = rest.abs().amax(-1, keepdim=True) / MOST[self.bits]
        codes = (rest / step.where(step > 0, 1.0)).round()
        return (codes * step + kept).flatten(-2)[..., : x.shape[-1]]


def load(folder: Path, kind: str, folded: bool) -> PreTrainedModel:
    """The model with weights of `kind`, dequantised. folded: quantised after `fold`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        if model.config.tie_word_embeddings:
            model.lm_head.weight = nn.Parameter(model.model.embed_tokens.weight.clone())
        if folded:
            fold(model)
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and kind != "fp32":
                module.weight.copy_(dequantise(quantise(module.weight, "int8" if name == "lm_head" else kind, "rowmajor")))
    return model


def fold(model: PreTrainedModel) -> None:
    """Exact, without data: norms become 1; a row of up and its column of down get equal lengths."""
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        _move(layer.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj)
        _move(layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj)
        factor = (mlp.down_proj.weight.norm(dim=0) / mlp.up_proj.weight.norm(dim=1)).sqrt()
        mlp.up_proj.weight *= factor[:, None]
        mlp.down_proj.weight /= factor
    _move(model.model.norm, model.lm_head)


def _move(norm: nn.Module, *consumers: nn.Linear) -> None:
    for linear in consumers:
        linear.weight *= norm.weight
    norm.weight.fill_(1.0)


@torch.inference_mode()
def perplexity(model: PreTrainedModel, stories: Sequence[Text], rounding: Rounding | None, where: Sequence[str]) -> float:
    hooks = [module.register_forward_pre_hook(lambda _, given: (rounding(given[0]),))
             for name, module in model.named_modules() if rounding and name.split(".")[-1] in where]
    spent, tokens = 0.0, 0
    for story in stories:
        ids = torch.tensor([story.ids])
        logits = model(ids[:, :-1], use_cache=False).logits[0]
        spent += functional.cross_entropy(logits.double(), ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    for hook in hooks:
        hook.remove()
    return math.exp(spent / tokens)


class Bench:
    """Rises of one model's perplexity, in models with outliers that are made where they are asked for."""

    def __init__(self, path: Path, stories: Sequence[str], kind: str, scratch: Path) -> None:
        self.folder, self.stories, self.kind, self.scratch = Folder(path), texts(path, stories), kind, scratch

    def model(self, seed: int | None, folded: bool = False, kind: str = "", **how: object) -> PreTrainedModel:
        if seed is None:
            return load(self.folder.path, kind or self.kind, folded)
        with tempfile.TemporaryDirectory(dir=self.scratch) as made:
            return load(outliers.save(self.folder, Path(made, "model"), seed, **how).path, kind or self.kind, folded)

    def rise(self, model: PreTrainedModel, rounding: Rounding, where: Sequence[str] = EVERY) -> float:
        found, exact = (perplexity(model, self.stories, how, where) for how in (rounding, None))
        return found / exact - 1

    def by_product(self) -> dict[str, list[float]]:
        """8 bits before one kind of product alone."""
        models = [self.model(seed) for seed in SEEDS]
        asked = PARTS | {"all": EVERY}
        return {part: [self.rise(model, Grouped(), where) for model in models] for part, where in asked.items()}

    def by_injection(self) -> dict[str, list[float]]:
        """8 bits everywhere, outliers in one place alone."""
        return {part: [self.rise(self.model(seed, parts=(part,)), Grouped()) for seed in SEEDS] for part in outliers.PARTS}

    def by_factor(self) -> dict[str, list[float]]:
        return {f"{f:g}": [self.rise(self.model(seed, factors=(f, f)), Grouped()) for seed in SEEDS] for f in FACTORS}

    def by_weights(self) -> dict[str, list[float]]:
        """Of the weights' own rounding, over fp32, with activations as they are."""
        exact = perplexity(self.model(None, kind="fp32"), self.stories, None, ())
        return {name: [perplexity(self.model(seed, folded), self.stories, None, ()) / exact - 1 for seed in (*SEEDS, None)]
                for name, folded in (("as they are", False), ("folded", True))}

    def by_rounding(self) -> dict[str, list[float]]:
        ways = {f"groups of {group}": Grouped(group) for group in (64, 32, 16, 8)}
        ways |= {f"groups of 64, {apart} apart": Grouped(apart=apart) for apart in (1, 2)}
        ways |= {f"groups of 64, {bits} bits": Grouped(bits=bits) for bits in MOST if bits > 8}
        models, plain = [self.model(seed) for seed in SEEDS], self.model(None)
        found = {name: [self.rise(model, way) for model in (*models, plain)] for name, way in ways.items()}
        folded = [self.model(seed, folded=True) for seed in (*SEEDS, None)]
        return found | {"groups of 64, folded": [self.rise(model, Grouped()) for model in folded]}


QUESTIONS: Mapping[str, Callable[[Bench], dict[str, list[float]]]] = {
    "8 bits before": Bench.by_product, "outliers in": Bench.by_injection, "factor": Bench.by_factor,
    "weights (last: no outliers)": Bench.by_weights, "rounding (last: no outliers)": Bench.by_rounding,
}


def show(question: str, found: Mapping[str, Sequence[float]]) -> str:
    lines = [f"| {question} | rise of perplexity, by seed |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {', '.join(f'{rise:+.2%}' for rise in rises)} |" for name, rises in found.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[MODELS[0], MODELS[2]])
    parser.add_argument("--stories", type=int, default=20)
    parser.add_argument("--kind", choices=("nf4", "int8"), default="int8")
    parser.add_argument("--ask", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    chosen = parser.parse_args()
    transformers.logging.disable_progress_bar()
    every: dict[str, dict[str, dict[str, list[float]]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for path in chosen.folders:
            bench = Bench(path, dev_stories()[: chosen.stories], chosen.kind, Path(scratch))
            every[path.name] = {}
            for question in chosen.ask:
                found = every[path.name][question] = QUESTIONS[question](bench)
                print(f"\n{path.name}, {chosen.kind}\n\n{show(question, found)}", flush=True)
    print(json.dumps({"stories": chosen.stories, "kind": chosen.kind, "rises": every}))


if __name__ == "__main__":
    main()
