"""`specexec run`: one question, one answer."""

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from cli import options as table
from cli.option import act
from cli.question import read_question


@click.command(epilog='Examples: specexec run "Once upon a time"   |   cat notes.txt | specexec run -n 200 "In short:"')
@click.argument("prompt", required=False)
@act("-p", "--prompt", "prompt_option", metavar="TEXT", help="The prompt; - reads standard input.")
@act("-f", "--file", "files", multiple=True, type=click.Path(path_type=Path), help="Text file to put before it; repeatable.")
@act("--json", "as_json", is_flag=True, help="One JSON object with text, token ids and figures.")
@act("-x", "--extract", is_flag=True, help="The first code block of the answer alone.")
@act("--stream/--no-stream", default=None, help="Text as it comes, or whole at the end; --json --stream: JSON lines.")
@table.cache_option
@table.model_options
@table.sampling_options
@table.answer_options
def run(
    prompt: str | None, prompt_option: str | None, files: tuple[Path, ...], as_json: bool, extract: bool, stream: bool | None,
    **given: Any,
) -> int:
    """Answer one PROMPT; piped text comes before it."""
    from cli.find import find

    question = read_question(prompt, prompt_option, files)
    find(given["model"], "target")  # torch, which the next lines load, would be two seconds of waiting for a no
    from cli import color, render, settings
    from cli.build import open_session
    from cli.interrupt import INTERRUPTED, Interrupt
    from cli.outlet import Whole, write_json
    from cli.reasons import reasons
    from cli.status import Status, shows
    from specexec.conversation import Conversation

    wanted = settings.model_options(given)
    color.choose(given["color"])
    with closing(open_session(wanted, Interrupt())) as session:
        chosen = settings.answer_options(given, session.sampling)
        for remark in (*settings.remarks(wanted), *session.remarks):
            render.note(remark, given["quiet"])
        settings.think(session.codec, given["think"])
        conversation = Conversation(session.codec, settings.system_prompt(given["system"]))
        conversation.ask(question)
        session.check_room(len(conversation.ids))
        made = session.begin(conversation.ids, chosen)
        with session.interrupt.listening():  # until the last line is out
            texts = session.stream(made, conversation.ids, chosen, conversation.begin_answer())
            if as_json:
                write_json(session.keeping(texts), stream, lambda: render.as_json(made, len(conversation.ids), chosen))
            else:
                status, page = Status(session, made), Whole(extract) if extract or stream is False else None
                reply = render.reply(conversation.spelled, session.codec.has_template, given["hide_thoughts"], page)
                with session.pulse.watched(status.beat if shows(given["quiet"]) else lambda: None):
                    render.write_answer(made, session.keeping(status.cleared(texts)), reply)
            for line in reasons(session, made, chosen) if given["verbose"] else ():
                render.note(line)
            if render.wants_stats(given["stats"], given["quiet"]):
                render.note(render.stats(made, chosen))
    return INTERRUPTED if made.answer.stop_reason == "interrupted" else 0
