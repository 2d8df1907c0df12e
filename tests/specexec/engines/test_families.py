"""What is admitted means what it means to transformers; the rest is refused by name, with a hint."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from offload.folder import Folder
from specexec.engines.families import ADMITTED, ALIKE, COUNTS, admit
from specexec.errors import Damaged, SpecexecError, Unsupported
from specexec.kv.cache import Rows
from specexec.kv.dense import DenseCache
from tests.models import FAMILIES, chain, engine, read, saved


def raw(family: str = "llama", **changes: Any) -> dict[str, Any]:
    """A family's config.json with changes."""
    return Folder(saved(family)).config | changes


def refused(error: type[SpecexecError], config: dict[str, Any]) -> str:
    """What is said when `config` is refused."""
    with pytest.raises(error) as caught:
        admit(config)
    assert caught.value.hint
    return str(caught.value)


def test_the_matrix_covers_every_admitted_type() -> None:
    assert {raw(family)["model_type"] for family in FAMILIES} == set(ADMITTED)


LEFT_OUT = {"llama": {}, "mistral": {}, "qwen2": {"use_sliding_window": True}, "qwen3": {"use_sliding_window": True}}
SHORT = [{"model_type": kind, "vocab_size": 80, "hidden_size": 4096, "intermediate_size": 64, "num_hidden_layers": 30,
          "num_attention_heads": 64} | more for kind, more in LEFT_OUT.items()]


@pytest.mark.parametrize("config", [
    *SHORT, *(short | {"num_key_value_heads": 16, "use_sliding_window": False, "sliding_window": 7} for short in SHORT),
    SHORT[2] | {"layer_types": ["full_attention", "sliding_attention"] * 15, "sliding_window": 7}, SHORT[0] | {"head_dim": 80},
    SHORT[3] | {"num_key_value_heads": None, "tie_word_embeddings": True},
    SHORT[1] | {"sliding_window": None}, *(family for family in FAMILIES)], ids=str)
def test_a_configuration_means_what_it_means_to_transformers(config: str | dict[str, Any]) -> None:
    """Also where it says little, so that defaults count."""
    said = raw(config) if isinstance(config, str) else config
    ours, theirs = admit(said), AutoConfig.for_model(**said)
    for name in (*COUNTS, *ALIKE):
        if name != "hidden_act" and hasattr(theirs, name):  # a qwen2 has no head_dim of its own
            assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.model_type, theirs.hidden_act) == (theirs.model_type, "silu")
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention" if said["model_type"] == "mistral" else "full"] * 99
    assert ours.windows == tuple(theirs.sliding_window if kind == "sliding_attention" else None
                                 for kind in kinds[: ours.num_hidden_layers])


BIASED = {"attention_bias": True, "mlp_bias": True}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, BIASED], ids=["plain", "biased"])
def test_a_layers_tensors_are_those_of_transformers(family: str, changes: dict[str, Any]) -> None:
    said = raw(family, **changes)
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**said)).model.layers[0]
    ours = admit(said)
    assert ours.tensors | ours.spare == {name for name, _ in theirs.named_parameters()}


def test_a_model_of_another_activation_is_refused_by_name() -> None:
    assert '"gelu"' in refused(Unsupported, raw(hidden_act="gelu"))


@pytest.mark.parametrize("kind", ["gpt_oss", "gemma2", "mixtral", "llama4", "bert", "", "LLAMA", "../llama"])
def test_another_type_of_model_is_refused_by_name(kind: str) -> None:
    assert f'"{kind}"' in refused(Unsupported, raw(model_type=kind))


def test_a_configuration_without_a_type_is_refused() -> None:
    refused(Unsupported, {})


@pytest.mark.parametrize("kind", ["llama", "somebodys_own"])
def test_a_model_with_code_of_its_own_is_refused(kind: str) -> None:
    assert "auto_map" in refused(Unsupported, raw(model_type=kind, auto_map={"AutoModelForCausalLM": "modeling.Model"}))


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
LONGROPE = {"rope_type": "longrope", "factor": 2.0, "rope_theta": 10000.0, "short_factor": [1.0] * 6, "long_factor": [2.0] * 6,
            "original_max_position_embeddings": 32}


@pytest.mark.parametrize("rope", [DYNAMIC, LONGROPE], ids=lambda rope: rope["rope_type"])
def test_rope_that_moves_with_the_text_is_refused_by_name(rope: dict[str, Any]) -> None:
    assert f'"{rope["rope_type"]}"' in refused(Unsupported, raw(rope_parameters=rope))


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_rope_that_moves_is_refused_as_older_configurations_write_it(key: str) -> None:
    old = {name: value for name, value in raw().items() if name != "rope_parameters"}
    assert '"dynamic"' in refused(Unsupported, old | {"rope_theta": 10000.0, "rope_scaling": {key: "dynamic", "factor": 2.0}})


@pytest.mark.parametrize("changes", [
    {"num_hidden_layers": "three"}, {"num_hidden_layers": None}, {"hidden_size": 50, "head_dim": None},
    {"num_attention_heads": 0},
    {"rope_parameters": 5}, {"vocab_size": "80"}, {"vocab_size": 80.0}, {"vocab_size": True}, {"num_key_value_heads": 3},
    {"head_dim": 7}, {"rms_norm_eps": "small"}, {"tie_word_embeddings": "no"}, {"rope_parameters": {"rope_type": "linear"}},
    {"model_type": "mistral", "sliding_window": "16"},
    {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "layer_types": ["full_attention"]},
    {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "layer_types": ["chunked_attention"] * 3},
], ids=str)
def test_a_configuration_that_cannot_be_is_damaged(changes: dict[str, Any]) -> None:
    assert "config.json" in refused(Damaged, raw(**changes))


class Listing(DenseCache):
    """Keeps the layers that attended, and the window of each."""

    def __init__(self) -> None:
        super().__init__(3)
        self.layers: list[int] = []
        self.windowed: list[bool] = []

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        self.layers.append(layer)
        self.windowed.append(rows.windowed)
        return super().attend(layer, q, k, v, rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_asks_for_attention_once_a_pass(family: str) -> None:
    cache = Listing()
    target = engine(saved(family), cache=cache)
    for tokens in (range(20), range(23)):
        target.sync(tokens)
        read(target, chain(1, 2))
    assert cache.layers == [0, 1, 2] * 2


@pytest.mark.parametrize(("family", "windowed"), [
    ("llama", [False] * 3), ("mistral", [True] * 3), ("qwen2", [False] * 3), ("qwen2-mixed", [False, True, True]),
])
def test_each_layer_has_its_own_window(family: str, windowed: list[bool]) -> None:
    cache = Listing()
    target = engine(saved(family), cache=cache)
    target.sync(range(20))
    read(target, chain(1))
    assert cache.windowed == windowed

