"""Function-preserving expansion: the large model writes what its shadow, the small one inside it, writes."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cli.build import open_session
from cli.engines import Making
from cli.find import find
from cli.interrupt import Interrupt
from cli.models import ModelOptions
from cli.name import BUNDLED
from cli.session import AnswerOptions
from offload.convert import convert
from offload.errors import Refused
from offload.expand import expanded, layer
from offload.expansion import Expansion
from offload.folder import EMBEDDING, HEAD, LAYERS, Folder
from offload.live import Live
from offload.manifest import NAME
from offload.parts import Source
from offload.published import NORM
from offload.shadow import Shadow
from offload.shape import DRAFTS, SHAPES, Shape, copies, exact
from offload.store import Store
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.torch_engine import TorchEngine
from specexec.engines.tree_engine import TreeEngine
from specexec.kv.dense import DenseCache
from specexec.roles import Engine
from specexec.sampling import Sampling
from specexec.tree import DraftTree
from tests.offload.test_store import Nobody

PROMPT = [1, 300, 500, 20, 77, 1200]


def shape(kind: str, **sizes: Any) -> dict[str, Any]:
    given = {"hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
             "intermediate_size": 1536, "vocab_size": 3000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6}
    return {"model_type": kind, **given, **sizes}


SHAPED = {
    "exact": shape("llama"),
    "twice": shape("llama", hidden_size=2048, num_attention_heads=32, num_key_value_heads=8, head_dim=64),
    "rounded": shape("qwen2", hidden_size=640, num_attention_heads=10, num_key_value_heads=2, head_dim=64),
}


@pytest.fixture(scope="module", params=list(SHAPED))
def expansion(request: pytest.FixtureRequest) -> Expansion:
    return Expansion(Folder(find(BUNDLED, "target")), SHAPED[request.param], request.param)


@pytest.fixture(scope="module", params=["nf4", "int8", "bf16"])
def store(request: pytest.FixtureRequest, expansion: Expansion, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("expanded") / "store"
    convert(expanded(expansion, request.param, None if request.param == "bf16" else "tile16"), path, Nobody())
    return Store(path)


def engine_of(store: Store, bits: int = 16) -> TreeEngine:
    return Making(store, ModelOptions(activations=bits, context=600), 2048, Interrupt().requested).engine()


def shadow_of(expansion: Expansion, store: Store) -> TreeEngine:
    held = Shadow(expansion, store)
    config = admit(held.config)
    return TorchEngine(config, held, DenseCache(config.num_hidden_layers), 2048, torch.device("cpu"), torch.float32)


def logits(engine: Engine, tokens: list[int]) -> torch.Tensor:
    engine.sync(tokens[:-1])
    rows: list[torch.Tensor] = []
    engine.forward(DraftTree((tokens[-1],)), lambda _, x: rows.append(x[:, :2048].float().clone()))
    return torch.cat(rows)


def test_its_logits_are_its_shadows(expansion: Expansion, store: Store) -> None:
    large, small = (logits(engine, PROMPT) for engine in (engine_of(store), shadow_of(expansion, store)))
    allowed = {"nf4": 2e-2, "int8": 2e-2, "bf16": 0.3}[store.quant]  # levels in 10 bits and activations in 14; bf16's own
    assert (large - small).abs().max() < allowed * small.std()


@pytest.mark.parametrize("bits", [8, 16])
def test_its_live_part_has_its_bits(expansion: Expansion, store: Store, bits: int) -> None:
    if store.layout is None or not exact(expansion.small, expansion.large):
        pytest.skip("fp32 rounds a mean over more columns otherwise, where they are not a power of two times as many")
    held = Live(expansion, store)
    small = KernelEngine(admit(held.config), held, 2048, bits)
    for count in (1, 6, 200):
        tokens = (PROMPT * 34)[:count]
        assert torch.equal(logits(engine_of(store, bits), tokens), logits(small, tokens))


def test_greedily_it_writes_what_its_shadow_writes(expansion: Expansion, store: Store) -> None:
    if store.quant == "bf16":
        pytest.skip("256 tokens in bf16 come to a close call")
    engines, texts = (engine_of(store), shadow_of(expansion, store)), list[list[int]]()
    for engine in engines:
        tokens = list(PROMPT)
        for _ in range(64):
            tokens.append(int(logits(engine, tokens).argmax()))
        texts.append(tokens)
    assert texts[0] == texts[1]


def test_what_is_not_zero_cannot_be_packed(expansion: Expansion, store: Store) -> None:
    if store.quant == "bf16":
        pytest.skip("bf16 noise has exponents alike")
    zero = {"nf4": b"\x77", "int8": b"\x00"}[store.quant]
    inert = next(index for index in range(expansion.large.layers) if index not in expansion.places)
    content = (store.path / store.layers[inert]).read_bytes()
    assert len(gzip.compress(content, 6)) > 0.97 * (len(content) - content.count(zero))


@pytest.mark.parametrize(("change", "word"), [
    ({"model_type": "qwen3"}, "qwen3"), ({"hidden_size": 128}, "width"), ({"num_hidden_layers": 3}, "layers"),
    ({"num_attention_heads": 8, "num_key_value_heads": 8}, "heads"), ({"head_dim": 80}, "dimensions"),
    ({"vocab_size": 1000}, "vocabulary"), ({"hidden_size": "wide"}, "wide"),
])  # fmt: skip
def test_a_shape_that_cannot_hold_the_small_model_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Refused, match=word):
        Expansion(Folder(find(BUNDLED, "target")), SHAPED["exact"] | change, "odd")


def test_published_shapes_take_the_pair() -> None:
    target, draft = (Folder(find(BUNDLED, role)) for role in ("target", "draft"))
    for name, config in SHAPES.items():
        assert Expansion(target if name not in DRAFTS.values() else draft, config, name).large.width == config["hidden_size"]
    small = Shape.of(target.config)
    large = [Shape.of(SHAPES[name]) for name in ("llama-3.1-70b", "llama-3.1-8b", "qwen2.5-32b")]
    assert [(exact(small, of), copies(small, of)) for of in large] == [(True, 2), (True, 1), (False, 1)]


def test_a_conversion_that_was_stopped_goes_on_to_the_same_bytes(expansion: Expansion, store: Store, tmp_path: Path) -> None:
    blueprint = expanded(expansion, store.quant, store.layout)
    with pytest.raises(RuntimeError):
        convert(replace(blueprint, check=stopped), tmp_path / "again", Nobody())
    assert convert(blueprint, tmp_path / "again", Nobody())
    assert (tmp_path / "again" / NAME).read_bytes() == (store.path / NAME).read_bytes()


def stopped(name: str) -> None:
    if name.startswith("layer-003"):
        raise RuntimeError


def published_weights(of: Expansion) -> dict[str, torch.Tensor]:
    """The expanded model in fp32, as a folder would hold it."""
    def all_of(source: Source) -> torch.Tensor:
        return torch.cat([source.rows(*step).float() for step in source.steps(1)])

    outside = {EMBEDDING: of.embedding(), HEAD: of.head(), NORM: of.norm(NORM, of.weights[NORM])}
    layers = {f"{LAYERS}{index}.{name}": source
              for index in range(of.large.layers) for name, source in layer(of, index).items()}
    return {name: all_of(source) for name, source in (outside | layers).items()}


def test_before_quantisation_it_is_the_small_model(expansion: Expansion) -> None:
    configs = expansion.folder.config, expansion.described()
    models = [AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).float().eval() for config in configs]
    for model, weights in zip(models, (expansion.weights, published_weights(expansion)), strict=True):
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not unexpected
        assert set(missing) <= {HEAD}
    models[0].tie_weights()
    with torch.inference_mode():
        small, large = (model(torch.tensor([PROMPT])).logits[0, :, :2048] for model in models)
    assert not large.isnan().any()
    assert (small - large).abs().max() < 1e-4 * small.abs().max()


@pytest.mark.parametrize("budget", [8, 32])
def test_it_accepts_what_its_shadow_accepts(expansion: Expansion, store: Store, budget: int) -> None:
    if store.quant != "nf4":
        pytest.skip("nf4 stands for all formats")
    counts = []
    for engine in (engine_of(store), shadow_of(expansion, store)):  # each with a draft of its own, which learns
        session = replace(open_session(ModelOptions(str(store.path), (BUNDLED,), context=600), Interrupt()), target=engine)
        chosen = AnswerOptions(Sampling(temperature=0), 0, budget, 64)
        made = session.begin(PROMPT, chosen)
        list(session.stream(made, PROMPT, chosen, 0))
        counts.append(made.report.accepted)
    assert counts[0][:3] == counts[1][:3]
    assert abs(len(counts[0]) - len(counts[1])) <= 2  # what a drafter learns moves with the last bits of logits
