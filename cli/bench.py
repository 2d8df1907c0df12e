"""`specexec bench`: plain and speculative decoding of the same prompts, by turns, in one run."""

import json
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options as table
from cli.option import act

if TYPE_CHECKING:  # torch is loaded when a command runs, not when it is named
    from cli.session import AnswerOptions, Session

PROMPTS = (
    "Once upon a time",
    "One day, a little girl named Lucy went to the park with her mom.",
    "Tom and his dog Max were best friends.",
)


@click.command(epilog="Examples: specexec bench -n 100   |   specexec bench --draft random --budget 64 --json")
@act("--prompts", type=click.Path(path_type=Path), help='JSON lines of {"turns": [...]}; default: three openings.')
@act("--quality", is_flag=True, help="Instead: what 8 and 4 bits of keys and values cost in perplexity.")
@act("-f", "--file", "files", multiple=True, type=click.Path(path_type=Path),
     help="With --quality: text to read; default what the model writes itself; repeatable.")
@act("-n", "--max-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens an answer.")
@act("-r", "--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Rounds over all prompts.")
@act("--json", "as_json", is_flag=True, help="Only the JSON object.")
@table.shape_options
@table.model_options
@table.sampling_options
def bench(prompts: Path | None, repeats: int, as_json: bool, **given: Any) -> int:
    """Measure speculative against plain decoding.

    With --shape, of a model of that size, made here of the bundled pair: it writes what the small target writes, and costs what
    the large one costs.
    """
    from cli import render, settings

    if given.pop("quality"):
        from cli.bench_quality import bench_quality

        return bench_quality(read_prompts(prompts) if prompts else list(PROMPTS), as_json, given)
    if given.pop("files"):
        raise click.UsageError("-f is a text for --quality; prompts to answer are --prompts.")
    if given["shape"]:
        from cli.bench_shape import bench_shape

        return bench_shape(read_prompts(prompts) if prompts else list(PROMPTS), as_json, given)
    from cli.build import open_session, versions
    from cli.interrupt import Interrupt

    with closing(open_session(settings.model_options(given), Interrupt())) as session:
        chosen = settings.answer_options({**given, "seed": given["seed"] or 0}, session.sampling)
        texts = read_prompts(prompts) if prompts else list(PROMPTS)
        arms = _alternate(session, chosen, texts, repeats)
    speculative = [run["report"] for run in arms["speculative"]]
    ratios = [p["seconds"] / s["seconds"] for p, s in zip(*arms.values(), strict=True)]
    result = {
        "machine": machine(), "versions": versions(), "seed": chosen.seed, "temperature": chosen.sampling.temperature,
        **{name: _arm(runs) for name, runs in arms.items()},
        "ratio": statistics.median(ratios), "ratio_quartiles": _quartiles(ratios), "pairs": len(ratios),
        "same_text": all(p["ids"] == s["ids"] for p, s in zip(*arms.values(), strict=True)),
        "share_of_floor": None, "draft": list(given["draft"]), "budget": given["budget"],
        "drafted": sum(report.drafted for report in speculative) / sum(report.passes for report in speculative),
    }
    if not as_json:
        render.write(_table(result))
    render.write(json.dumps(result) + "\n")
    return 0


def _alternate(session: "Session", chosen: "AnswerOptions", texts: list[str], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """The same answers by both arms, which take turns to go first; the first answers of each are a warm-up."""
    from dataclasses import replace

    from cli.build import fresh
    from specexec.drafters.grow import Nothing

    plain = replace(session, drafter=Nothing(), auto=fresh(session.target))
    arms: dict[str, list[dict[str, Any]]] = {"plain": [], "speculative": []}
    sessions = {"plain": plain, "speculative": session}
    for warm in sessions.values():
        answer(warm, chosen, texts[0])
    for turn in range(repeats * len(texts)):
        for name in sorted(sessions, reverse=bool(turn % 2)):
            arms[name].append(answer(sessions[name], chosen, texts[turn % len(texts)], turn // len(texts)))
    return arms


def answer(session: "Session", chosen: "AnswerOptions", text: str, number: int = 0) -> dict[str, Any]:
    prompt = session.codec.encode_first(text)
    session.target.cache.truncate(0)
    made = session.begin(prompt, chosen)
    began = time.perf_counter()
    for _ in session.stream(made, prompt, chosen, number):
        pass
    return {"ids": made.answer.ids, "seconds": time.perf_counter() - began, "report": made.report,
            "streamed": made.streamed_bytes}


def _arm(runs: list[dict[str, Any]]) -> dict[str, float]:
    passes = sum(run["report"].passes for run in runs)
    seconds = sum(run["seconds"] for run in runs)
    return {
        "tokens_per_second": sum(len(run["ids"]) for run in runs) / seconds,
        "pass_seconds": statistics.median(run["seconds"] / run["report"].passes for run in runs),
        "tokens_per_pass": sum(run["report"].tokens for run in runs) / passes,
        "draft_seconds": sum(run["report"].draft_seconds for run in runs),
        "target_seconds": sum(run["report"].target_seconds for run in runs),
    }


def _quartiles(ratios: list[float]) -> list[float]:
    return statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2


def read_prompts(path: Path) -> list[str]:
    try:
        return [json.loads(line)["turns"][0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise click.UsageError(f'{path} holds no JSON lines with {{"turns": [...]}}: {error}') from error


def machine() -> dict[str, Any]:
    import platform

    import psutil

    ram = psutil.virtual_memory().total
    return {"system": platform.platform(), "processor": platform.machine(), "cores": psutil.cpu_count(), "ram_bytes": ram}


def _table(result: dict[str, Any]) -> str:
    rows = [f"| {name} | {result[name]['tokens_per_second']:.1f} | {result[name]['pass_seconds'] * 1e3:.2f} |"
            f" {result[name]['tokens_per_pass']:.2f} |" for name in ("plain", "speculative")]
    low, high = result["ratio_quartiles"]
    head = ["| arm | tokens/s | ms a pass | tokens/pass |", "|---|---|---|---|"]
    ratio = f"ratio {result['ratio']:.2f} (quartiles {low:.2f} to {high:.2f}, {result['pairs']} pairs)"
    return "\n".join([*head, *rows, ratio, ""])
