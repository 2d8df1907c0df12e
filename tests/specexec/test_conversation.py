"""Conversations: spans of ids that are never tokenised again, with and without a chat template."""

from collections.abc import Sequence

import jinja2
import pytest

from specexec.conversation import Conversation, check_fits
from specexec.errors import WrongUsage
from specexec.exchange import Messages

CHATML = ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|assistant|>{% endif %}")
STRIPPING = CHATML.replace("m.content", "m.content|trim")
FORGETFUL = CHATML.replace("{{ m.content }}", "{{ m.content if loop.last or m.role != 'assistant' else 'THOUGHT' }}")


class Characters:
    """A codec whose ids are code points; 0 opens a context."""

    def __init__(self, template: str | None = None) -> None:
        self.template = template

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def encode_first(self, text: str) -> list[int]:
        return [0, *self.encode(text)]

    def render(self, messages: Messages) -> str | None:
        if self.template is None:
            return None
        return jinja2.Template(self.template).render(messages=messages, add_generation_prompt=True)


def text(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def talk(template: str | None, answers: Sequence[str], system: str | None = None) -> Conversation:
    made = Conversation(Characters(template), system)
    for i, answer in enumerate(answers):
        made.ask(f"q{i}")
        made.answered(answer, made.codec.encode(answer))
    return made


def test_without_a_template_turns_continue_one_text() -> None:
    made = talk(None, ["a0", "a1"])
    assert made.ids == [0, *map(ord, "q0a0q1a1")]


@pytest.mark.parametrize("template", [CHATML, STRIPPING])
def test_each_turn_appends_only_what_the_template_adds(template: str) -> None:
    made = talk(template, ["a0"], system="s")
    before = made.ids
    made.ask("q1")
    assert made.ids[: len(before)] == before
    assert text(made.ids) == "<|system|>s<|end|>\n<|user|>q0<|end|>\n<|assistant|>a0<|end|>\n<|user|>q1<|end|>\n<|assistant|>"


def test_an_answer_the_template_strips_keeps_its_ids() -> None:
    made = talk(STRIPPING, [" a0 "])
    made.ask("q1")
    assert "<|assistant|> a0 <|end|>" in text(made.ids)


def test_a_template_that_rewrites_history_is_followed() -> None:
    made = talk(FORGETFUL, ["a0"])
    made.ask("q1")
    assert text(made.ids) == "<|user|>q0<|end|>\n<|assistant|>THOUGHT<|end|>\n<|user|>q1<|end|>\n<|assistant|>"


@pytest.mark.parametrize("template", [None, CHATML, FORGETFUL])
def test_dropped_turns_leave_a_context_that_opens_as_one(template: str | None) -> None:
    made = talk(template, ["a0", "a1", "a2"], system="s")
    made.ask("q3")
    dropped = made.make_room(len(made.ids) - 1, 0)
    assert dropped == ["q0"]
    fresh = Conversation(Characters(template), "s")
    fresh.ask("q1")
    assert made.ids[: len(fresh.ids)] == fresh.ids
    assert "q0" not in text(made.ids)
    assert text(made.ids).count("q3") == 1


def test_the_last_question_is_never_dropped() -> None:
    made = talk(None, ["a0"])
    made.ask("a very long question")
    assert made.make_room(5, 0) == ["q0"]
    assert [exchange.question for exchange in made.exchanges] == ["a very long question"]


def test_every_generation_has_its_own_number() -> None:
    made = talk(None, ["a0"])
    numbers = [made.begin_answer()]
    made.withdraw()
    numbers.append(made.begin_answer())
    made.undo()
    made.clear()
    numbers.append(made.begin_answer())
    assert numbers == [0, 1, 2]


def test_a_prompt_must_leave_room() -> None:
    check_fits(9, 10)
    with pytest.raises(WrongUsage, match=r"9,214 tokens, the context is 8,192"):
        check_fits(9214, 8192)


QWEN = ("{% for m in messages %}<|{{ m.role }}|>\n"
        "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}"
        "{% else %}{{ m.content }}{% endif %}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}")
DEEPSEEK = QWEN.replace("<|assistant|>\n{% endif %}", "<|assistant|>\n<think>\n{% endif %}")
TOOLS = ("{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
         "{% for c in m.tool_calls or [] %}[{{ c.name }}]{% endfor %}<|end|>{% endfor %}<|assistant|>")


@pytest.mark.parametrize(("template", "thought"), [(QWEN, "<think>\nhm\n</think>\n\n"), (DEEPSEEK, "hm\n</think>\n\n")])
def test_a_template_that_drops_thoughts_leaves_all_other_ids_as_they_were(template: str, thought: str) -> None:
    made = Conversation(Characters(template), "s")
    visible_ids = [*map(ord, "a0"[:1]), 999]  # spelled as no tokenizer would
    made.ask("q0")
    opening = made.ids
    made.answered(thought + "a0", [*map(ord, thought), *visible_ids])
    whole = made.ids
    made.ask("q1")
    shown = [*opening[: len(opening) - len("<think>\n") * (template == DEEPSEEK)], *visible_ids]
    assert made.ids[: len(shown)] == shown
    assert text(made.ids[len(shown) :]) == "<|end|>\n<|user|>\nq1<|end|>\n" + text(opening).split("<|end|>\n")[-1]
    made.undo()
    assert made.ids == whole


def test_what_stands_before_the_last_answer_is_evaluated_once_when_thoughts_go() -> None:
    made = Conversation(Characters(QWEN))
    for turn in range(3):
        before = made.ids
        made.ask(f"q{turn}")
        kept = len(before) - len("<think>h</think>a0") if before else 0
        assert made.ids[:kept] == before[:kept]
        made.answered(f"<think>h</think>a{turn}", [*map(ord, f"<think>h</think>a{turn}")])
    assert text(made.ids).count("<think>") == 1


def test_tools_speak_through_the_template() -> None:
    made = Conversation(Characters(TOOLS))
    made.ask("weather?")
    made.answered("", [*map(ord, "[get]")])
    made.exchanges[-1].further = {"tool_calls": [{"name": "get"}]}
    made.ask([{"role": "tool", "content": "sunny"}])
    assert text(made.ids) == "<|user|>weather?<|end|><|assistant|>[get]<|end|><|tool|>sunny<|end|><|assistant|>"
    assert made.exchanges[-1].question == "sunny"


@pytest.mark.parametrize("template", [None, CHATML])
def test_another_system_prompt_opens_the_context_and_answers_keep_their_ids(template: str | None) -> None:
    made = talk(template, ["a0", "a1"])
    made.exchanges[0].answer_ids = [998, 999]
    made.instruct("briefly")
    fresh = Conversation(Characters(template), "briefly")
    fresh.ask("q0")
    assert made.ids[: len(fresh.ids) + 2] == [*fresh.ids, 998, 999]
    assert text(made.ids[-2:]) == "a1"


def test_the_system_prompt_is_never_dropped() -> None:
    made = talk(CHATML, ["a0", "a1", "a2"], system="s")
    made.ask("q3")
    while len(made.exchanges) > 1:
        made.make_room(len(made.ids) - 1, 0)
        assert text(made.ids).startswith("<|system|>s<|end|>")


def test_a_template_that_refuses_changes_nothing() -> None:
    class Refusing(Characters):
        def render(self, messages: Messages) -> str | None:
            if messages[0]["role"] == "system":
                raise WrongUsage("no system", hint="none")
            return super().render(messages)

    made = Conversation(Refusing(CHATML))
    made.ask("q0")
    before = made.ids
    with pytest.raises(WrongUsage):
        made.instruct("s")
    assert (made.ids, made.system) == (before, None)
