"""How a person spells a model of the hub, and which small model drafts for a large one."""

import pytest

from cli.kin import usual_draft
from cli.reference import Reference, reference
from specexec.errors import WrongUsage

QWEN = "Qwen/Qwen2.5-72B-Instruct"


@pytest.mark.parametrize(("text", "wanted"), [
    (QWEN, Reference(QWEN)),
    (f"{QWEN}@main:nf4", Reference(QWEN, "main", "nf4")),
    (f"{QWEN}:int8", Reference(QWEN, None, "int8")),
    (f"hf://{QWEN}@refs/pr/3", Reference(QWEN, "refs/pr/3")),
    (f"https://huggingface.co/{QWEN}/", Reference(QWEN)),
])
def test_spellings(text: str, wanted: Reference) -> None:
    assert reference(text) == wanted
    assert wanted.tail == "Qwen2.5-72B-Instruct"


@pytest.mark.parametrize(("text", "hint"), [
    (f"{QWEN}@q4_k_m", f"specexec pull {QWEN}:nf4"), (f"{QWEN}@Q8_0", f"specexec pull {QWEN}:int8"),
    (f"{QWEN}:IQ2_XS", f"specexec pull {QWEN}:nf4; "), (f"{QWEN}@v1:fp16", f"specexec pull {QWEN}@v1:bf16; "),
    (f"{QWEN}@8bit", f"specexec pull {QWEN}:int8"), ("72b", "specexec pull Qwen/"), ("a/b/c", "specexec pull Qwen/"),
    ("a/b@", "specexec pull"), ("a/b c", "specexec pull"), ("", "specexec pull"), ("../b", "specexec convert ../b"),
    ("~/models/x", "specexec convert ~/models/x"), ("/a/b", "specexec convert /a/b"), ("a/..", "specexec pull"),
])
def test_what_is_no_name_is_answered_with_one(text: str, hint: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        reference(text)
    assert caught.value.hint.startswith(hint)


def test_options_beside_a_name() -> None:
    named = reference(f"{QWEN}@v1")
    assert named.but(None, None, "int8") == Reference(QWEN, "v1", "int8")
    assert named.but("v1", "bf16", "int8") == Reference(QWEN, "v1", "bf16")
    with pytest.raises(WrongUsage, match="contradict"):
        named.but("main", None)


@pytest.mark.parametrize(("repo", "draft"), [
    ("meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
    ("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.2-1B"),
    ("nvidia/Llama-3.1-Nemotron-70B-Instruct-HF", "meta-llama/Llama-3.2-1B-Instruct"),
    ("meta-llama/Meta-Llama-3-70B-Instruct", None),  # other tokens than 3.1
    (QWEN, "Qwen/Qwen2.5-0.5B-Instruct"),
    ("Qwen/Qwen2.5-Coder-32B-Instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
    ("Qwen/Qwen3-32B", "Qwen/Qwen3-0.6B"),
    ("Qwen/Qwen3-14B-Base", "Qwen/Qwen3-0.6B-Base"),
    ("mistralai/Mistral-Large-Instruct-2407", "mistralai/Mistral-7B-Instruct-v0.3"),
    ("Qwen/Qwen2.5-0.5B-Instruct", None), ("Qwen/Qwen3-4B", None), ("meta-llama/Llama-3.2-3B-Instruct", None),
    ("org/Something-70B", None),
])
def test_who_drafts_for_whom(repo: str, draft: str | None) -> None:
    assert usual_draft(repo) == draft
