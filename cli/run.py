"""`specexec run`: one question, one answer."""

import json
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from cli import options as table
from cli.question import read_question


@click.command(epilog='Examples: specexec run "Once upon a time"   |   cat notes.txt | specexec run -n 200 "In short:"')
@click.argument("prompt", required=False)
@click.option("-p", "--prompt", "prompt_option", metavar="TEXT", help="The prompt; - reads standard input.")
@click.option("-f", "--file", "files", multiple=True, type=click.Path(path_type=Path),
              help="Text file to put before it; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with text, token ids and figures.")
@table.model_options
@table.sampling_options
@table.answer_options
def run(prompt: str | None, prompt_option: str | None, files: tuple[Path, ...], as_json: bool, **given: Any) -> int:
    """Answer one PROMPT; piped text comes before it."""
    question = read_question(prompt, prompt_option, files)
    from cli import color, render, settings
    from cli.build import open_session
    from cli.interrupt import INTERRUPTED, Interrupt
    from cli.reasons import reasons
    from cli.status import Status, shows
    from specexec.conversation import Conversation, check_fits

    wanted = settings.model_options(given)
    color.choose(given["color"])
    with closing(open_session(wanted, Interrupt())) as session:
        chosen = settings.answer_options(given, session.sampling)
        for remark in (*settings.remarks(wanted), *session.remarks):
            render.note(remark, given["quiet"])
        settings.think(session.codec, given["think"])
        conversation = Conversation(session.codec, settings.system_prompt(given["system"]))
        conversation.ask(question)
        check_fits(len(conversation.ids), session.context)
        made = session.begin(conversation.ids, chosen)
        with session.interrupt.listening():  # until the last line is out
            texts = session.stream(made, conversation.ids, chosen, conversation.begin_answer())
            if as_json:
                deque(texts, 0)
                render.write(json.dumps(render.as_json(made, len(conversation.ids), chosen)) + "\n")
            else:
                status = Status(session, made)
                reply = render.reply(conversation.spelled, session.codec.has_template, given["hide_thoughts"])
                with session.pulse.watched(status.beat if shows(given["quiet"]) else lambda: None):
                    render.write_answer(made, status.cleared(texts), reply)
            for line in reasons(session, made, chosen) if given["verbose"] else ():
                render.note(line)
            if render.wants_stats(given["stats"], given["quiet"]):
                render.note(render.stats(made, chosen))
    return INTERRUPTED if made.answer.stop_reason == "interrupted" else 0
