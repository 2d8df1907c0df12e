"""Which small model drafts for which large one: of the same family, with the same tokens."""

import re

LARGE = 7  # billions of weights, below which nothing is offered
KIN = (  # what is found in the name of a large model, and the repo of its draft
    (r"Llama-3\.[123]-.*Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
    (r"Llama-3\.[123]-", "meta-llama/Llama-3.2-1B"),
    (r"Qwen2\.5-Coder-.*Instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
    (r"Qwen2\.5-Coder-", "Qwen/Qwen2.5-Coder-0.5B"),
    (r"Qwen2\.5-.*Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
    (r"Qwen2\.5-", "Qwen/Qwen2.5-0.5B"),
    (r"Qwen3-.*-Base", "Qwen/Qwen3-0.6B-Base"),
    (r"Qwen3-\d+(\.\d+)?B$", "Qwen/Qwen3-0.6B"),
    (r"Mistral-Large-Instruct-2407", "mistralai/Mistral-7B-Instruct-v0.3"),
)


def usual_draft(repo: str) -> str | None:
    """The repo of the model that drafts for `repo`, by its name; whether they fit is for their tokenizers to say."""
    small = re.search(r"-(\d+(?:\.\d+)?)B\b", repo)
    if small and float(small[1]) < LARGE:
        return None
    return next((draft for pattern, draft in KIN if re.search(pattern, repo) and draft != repo), None)
