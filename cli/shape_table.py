"""What `specexec bench --shape` found, as a person reads it."""

from collections.abc import Iterator, Mapping
from typing import Any

GB = 1e9


def table(of: Mapping[str, Any]) -> str:
    return "\n".join([*_head(of), "", *_passes(of), "", *_arms(of), "", *_notes(of), ""])


def _head(of: Mapping[str, Any]) -> Iterator[str]:
    yield (f"{of['shape']} as {of['format']}: {of['pinned_bytes'] / GB:.1f} GB of layers in memory, "
           f"{of['streamed_bytes'] / GB:.1f} GB read in every pass; the disk reads {of['read_bytes_per_second'] / GB:.2f} GB/s")


def _passes(of: Mapping[str, Any]) -> Iterator[str]:
    yield "| tokens a pass checks | s | of the floor | stream alone | arithmetic alone | prediction's error |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for one in of["passes"]:
        share = one["share_of_floor"]
        yield (f"| {one['n']} | {one['seconds']:.2f} | {1 / share:.2f} x | {one['stream_seconds']:.2f} | "
               f"{one['arithmetic_seconds']:.2f} | {share - 1:+.0%} |")


def _arms(of: Mapping[str, Any]) -> Iterator[str]:
    yield ("| decoding | tokens/s | against plain | tokens a pass | nodes a pass | s a pass | of it drafting | GB/s "
           "| of the roofline |")
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name, one in of["arms"].items():
        ratio = of["ratio"].get(name, 1.0)
        yield (f"| {name} | {one['tokens_per_second']:.2f} | {ratio:.1f} x | {one['tokens_per_pass']:.2f} | "
               f"{one['drafted']:.0f} | "
               f"{one['pass_seconds']:.2f} | {one['draft_seconds']:.2f} | {one['bytes_per_second'] / GB:.2f} "
               f"| {one['share_of_roofline']:.2f} |")


def _notes(of: Mapping[str, Any]) -> Iterator[str]:
    rates = ", ".join(f"{rate:.2f} at {tokens}" for tokens, rate in of["predicted"].items())
    yield f"budget {of['budget']}; tokens/s with a draft that brings so many tokens a pass: {rates}"
    yield "tokens a pass are the small bundled pair's: another pair and another text bring others"
    kept = "exactly" if of["exact"] else "to rounding"
    yield f"the shape keeps the small model's numbers {kept}; {of['shadow_tokens']} of {of['tokens']} tokens are its shadow's"
    bits = of["activations"]
    yield f"{of['fp32_tokens']} are its shadow's in fp32 as well; activations have {bits} bits"
    if of["parting_margins"]:
        by = ", ".join(f"{margin:.2g}" for margin in of["parting_margins"])
        yield f"where they part, fp32's token is the better one by {by} in its logits"
    yield "all ways of decoding wrote the same text" if of["same_text"] else "the ways of decoding wrote DIFFERENT texts"
