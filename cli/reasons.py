"""`-v`: how much was drafted, and why."""

from collections.abc import Iterator

from cli.session import AnswerOptions, Generation, Session


def reasons(session: Session, made: Generation, options: AnswerOptions) -> Iterator[str]:
    """Three lines, of what was measured."""
    report, price = made.report, session.auto.price
    if not report.passes:
        return
    nodes, drafting = report.drafted / report.passes, report.draft_seconds / report.passes
    if options.budget is None and price.seen:
        counts = sorted({1, 1 + round(nodes), 1 + 2 * max(16, round(nodes))})
        takes = ", ".join(f"{seconds:.3g} s for {n}" for n, seconds in zip(counts, price.seconds(counts), strict=True))
        yield f"a pass of the model takes, by the tokens it checks: {takes}"
    else:
        yield f"a pass of the model took {report.target_seconds / report.passes:.3g} s"
    brought = (report.tokens_per_pass or 1) - 1
    yield f"drafting took {drafting:.3g} s a pass and brought {brought:.1f} tokens more than the certain one"
    yield (f"{nodes:.1f} nodes a pass, as was asked for" if options.budget is not None or not price.seen else
           f"{nodes:.1f} nodes a pass were worth their time: {session.auto.rate:.3g} tokens/s, "
           f"{1 / float(price.seconds([1])[0]):.3g} are expected without a draft")
