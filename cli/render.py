"""Answers on stdout, all else on stderr."""

import contextlib
import resource
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from cli.color import coloured
from cli.page import Page, Plain, write
from cli.reply import Reply
from specexec.thoughts import opened

if TYPE_CHECKING:  # torch is loaded when a model is
    from cli.session import AnswerOptions, Generation

__all__ = ["as_json", "note", "peak_rss_bytes", "reply", "stats", "wants_stats", "write", "write_answer"]


def note(text: str, quiet: bool = False) -> None:
    """A line for the person, dim where colour is understood."""
    if not quiet:
        click.secho(text, err=True, dim=True)


def reply(prompt: str | None, styled: bool, hidden: bool, page: Page | None = None) -> Reply:
    """Shows one answer.

    prompt: the template's text before it. styled: the model writes Markdown. hidden: its thoughts are. page: where it goes,
    if not where answers usually go.
    """
    return Reply(page or _page(styled), opened(prompt or ""), hidden)


def _page(styled: bool) -> Page:
    if not (styled and coloured(sys.stdout) and sys.stdout.encoding.lower().startswith("utf")):
        return Plain()
    from cli.markdown import MarkdownPage

    return MarkdownPage()


def write_answer(made: "Generation", texts: Iterable[str], shown: Reply) -> None:
    """Text as it comes, ended by a newline: also where what makes it fails, unless there was no text."""
    try:
        for text in texts:
            shown.add(text)
    except Exception:
        if made.answer.text:
            shown.end()
        raise
    shown.end()


def wants_stats(given: bool | None, quiet: bool) -> bool:
    return given if given is not None else sys.stderr.isatty() and sys.stdout.isatty() and not quiet


def stats(made: "Generation", options: "AnswerOptions") -> str:
    """One line: what the answer cost, and the seed that repeats it."""
    from offload.size import size

    report, tokens = made.report, len(made.answer.ids)
    rate = f"{tokens / made.seconds:.1f} tokens/s" if made.seconds else "no time"
    accepted = f"{report.tokens_per_pass:.1f} tokens/pass" if report.tokens_per_pass else "no pass"
    read = f"{size(int(made.streamed_bytes / made.seconds))}/s read, " if made.streamed_bytes and made.seconds else ""
    return f"{tokens} tokens, {rate}, {accepted}, {read}{report.first_seconds:.1f} s to first, seed {options.seed}"


def as_json(made: "Generation", prompt_tokens: int, options: "AnswerOptions") -> dict[str, Any]:
    """The object that run --json prints."""
    report, answer = made.report, made.answer
    after = made.seconds - report.first_seconds
    return {
        "text": answer.text,
        "token_ids": answer.ids,
        "tokens": len(answer.ids),
        "prompt_tokens": prompt_tokens,
        "target_passes": report.passes,
        "tokens_per_pass": report.tokens_per_pass,
        "predicted_tokens_per_pass": report.predicted_tokens_per_pass,
        "seconds": made.seconds,
        "prefill_seconds": report.first_seconds,
        "draft_seconds": report.draft_seconds,
        "target_seconds": report.target_seconds,
        "tokens_per_second": len(answer.ids) / after if after > 0 else None,
        "drafted": report.drafted,
        "budget": report.budget,
        "seed": options.seed,
        "temperature": options.sampling.temperature,
        "stop_reason": answer.stop_reason,
        "first_close_call": report.first_close_call,
        "peak_rss_bytes": peak_rss_bytes(),
        "streamed_bytes": made.streamed_bytes,
    }


def peak_rss_bytes() -> int:
    """Of this process. getrusage knows no less than what the process that started it took, so Linux is asked elsewhere."""
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
