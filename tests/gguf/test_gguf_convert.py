"""A GGUF file converts into what its published model converts into."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from offload.blueprint import Blueprint
from offload.convert import convert
from offload.errors import DamagedFiles, OffloadError, Refused
from offload.folder import Folder
from offload.gguf import Gguf, kinds, values
from offload.gguf_convert import converted
from offload.low_bit import with_copy
from offload.manifest import copy_name
from offload.published import Goal, published
from offload.relaid import relaid
from offload.store import Store
from specexec.engines.families import admit
from specexec.errors import SpecexecError
from specexec.formats import Packed, dequantise, quantise, told
from tests.gguf.conftest import F32, Q8
from tests.gguf.writer import write
from tests.models import LLAMA3, save, saved
from tests.offload.test_store import Nobody


def store(file: Path, out: Path, kind: str = "nf4", layout: str = "tile16") -> Store:
    return made(Gguf(file), converted, out, kind, layout)


def of_folder(folder: Path, out: Path, kind: str = "nf4") -> Store:
    return made(Folder(folder), published, out, kind)


def made(model: Gguf | Folder, drawn: Callable[..., Blueprint], out: Path, kind: str, layout: str = "tile16") -> Store:
    config = admit(model.config)
    goal = Goal(kind, None if kind == "bf16" else layout, config.num_hidden_layers, config.tie_word_embeddings)
    assert convert(drawn(model, goal), out, Nobody())
    return Store(out)


def differing(a: Store, b: Store) -> list[str]:
    return [f"{file} {name}" for file in (*a.layers, a.head, a.embedding)
            for name, tensor in load_file(a.path / file).items() if not tensor.equal(load_file(b.path / file)[name])]


@pytest.mark.parametrize("kind", ["nf4", "int8", "bf16"])
def test_it_is_the_store_of_the_published_folder(kind: str, stories: Path, tmp_path: Path) -> None:
    assert differing(store(stories / F32, tmp_path / "a", kind), of_folder(stories, tmp_path / "b", kind)) == []


def test_eight_bits_lose_what_eight_bits_lose(stories: Path, tmp_path: Path) -> None:
    found, wanted = store(stories / Q8, tmp_path / "a", "bf16"), of_folder(stories, tmp_path / "b", "bf16")
    for layer in found.layers:
        for name, tensor in load_file(wanted.path / layer).items():
            off = (load_file(found.path / layer)[name].float() - tensor.float()).abs().max()
            assert off <= 0.012 * tensor.float().abs().max()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_every_family_is_put_back_as_it_was_published(family: str, tied: bool, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder = saved(family, tied)
    file = write(folder, tmp_path / "model.gguf")
    assert differing(store(file, tmp_path / "a"), of_folder(folder, tmp_path / "b")) == []
    ours, theirs = (admit(of.config) for of in (Gguf(file), Folder(folder)))
    for name in ("hidden_size", "num_key_value_heads", "rms_norm_eps", "rope_scaling", "vocab_size"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert torch.equal(ours.frequencies, theirs.frequencies)


def test_the_frequencies_of_llama3_are_found_again(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    rope = LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    folder = save("llama", tmp_path / "model", rope_parameters=rope, head_dim=64, max_position_embeddings=131072)
    scaled = admit(Folder(folder).config).frequencies
    factors = (500000.0 ** (-torch.arange(0, 64, 2) / 64) / scaled).numpy().astype(np.float32)
    assert Gguf(_with_factors(folder, tmp_path, factors)).config["rope_parameters"] == rope
    with pytest.raises(Refused, match="llama3"):
        _ = Gguf(_with_factors(folder, tmp_path, factors * np.linspace(1, 1.2, 32, dtype=np.float32))).config


def _with_factors(folder: Path, tmp_path: Path, factors: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> Path:
    import gguf as library

    class Writer(library.GGUFWriter):
        def write_header_to_file(self, path: Path | None = None) -> None:
            self.add_tensor("rope_freqs.weight", factors)
            super().write_header_to_file(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "GGUFWriter", Writer)
        return write(folder, tmp_path / f"{factors[1]}.gguf")


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_are_what_llamacpps_own_package_makes_of_them(kind: str) -> None:
    """To the last bit, of any bytes whose scales are numbers."""
    gguf = pytest.importorskip("gguf")
    number = next(number for number, name in kinds().items() if name == kind)
    raw = np.random.default_rng(0).integers(0, 256, (4096, gguf.GGML_QUANT_SIZES[number][1]), dtype=np.uint8)
    with np.errstate(all="ignore"):
        wanted = torch.from_numpy(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(number)).copy()).flatten()
    found = values(torch.from_numpy(raw), number)
    assert int(wanted.isfinite().sum()) > 0.9 * len(wanted)
    assert torch.equal(found[wanted.isfinite()], wanted[wanted.isfinite()])


def test_a_file_cut_short_is_told(stories: Path, tmp_path: Path) -> None:
    whole = (stories / F32).read_bytes()
    for size in (0, 3, 20, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(DamagedFiles, match=r"cut\.gguf"):
            Gguf(tmp_path / "cut.gguf")


@pytest.mark.parametrize("layout", ["tile16", "rowmajor"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_kept_matrices_are_the_files_own_to_the_last_bit(kind: str, layout: str, tmp_path: Path) -> None:
    """Rows of queries and keys are put back in their published order; down_proj's rows are no whole blocks."""
    gguf = pytest.importorskip("gguf")
    sizes = {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3, "tie_word_embeddings": False}
    folder = save("llama", tmp_path / "model", **sizes)
    file = write(folder, tmp_path / "model.gguf", kind)
    made = store(file, tmp_path / "made", "keep", layout)
    assert (made.quant, made.layout) == (kind.lower(), layout)
    theirs = {tensor.name: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
              for tensor in gguf.GGUFReader(file).tensors}
    for index, layer in enumerate(made.layers):
        held = load_file(made.path / layer)
        for theirs_name, name in (("attn_q", "self_attn.q_proj"), ("attn_v", "self_attn.v_proj"), ("ffn_up", "mlp.up_proj")):
            wanted = theirs[f"blk.{index}.{theirs_name}.weight"]
            if theirs_name == "attn_q":
                wanted = wanted.view(3, -1, 2, 96).transpose(1, 2).reshape(96, 96)
            assert torch.equal(unpacked(made, held, name, kind.lower()), wanted)
    head = load_file(made.path / made.head)
    assert torch.equal(unpacked(made, head, "lm_head", kind.lower()), theirs["output.weight"])


def unpacked(made: Store, held: dict[str, torch.Tensor], name: str, kind: str) -> torch.Tensor:
    codes, scales = held[f"{name}.weight"], held[f"{name}.scales"]
    assert told(codes, scales) == kind
    return dequantise(Packed(kind, str(made.layout), *made.matrices[name], codes, scales))


def test_what_cannot_be_kept_becomes_int8(stories: Path, tmp_path: Path) -> None:
    """The file's down_proj has rows of 172, which are no whole blocks: it is in F16."""
    made = store(stories / Q8, tmp_path / "made", "keep")
    held = load_file(made.path / made.layers[0])
    assert told(held["mlp.down_proj.weight"], held["mlp.down_proj.scales"]) == "int8"
    assert told(held["mlp.up_proj.weight"], held["mlp.up_proj.scales"]) == "q8_0"


def test_a_kept_store_is_laid_out_anew(stories: Path, tmp_path: Path) -> None:
    made = store(stories / Q8, tmp_path / "a", "keep")
    assert convert(relaid(made, None, "rowmajor"), tmp_path / "b", Nobody())
    assert convert(relaid(Store(tmp_path / "b"), None, "tile16"), tmp_path / "c", Nobody())
    assert differing(made, Store(tmp_path / "c")) == []
    assert differing(Store(tmp_path / "b"), store(stories / Q8, tmp_path / "d", "keep", "rowmajor")) == []


def test_a_file_without_such_blocks_is_refused(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="can be kept"):
        store(stories / F32, tmp_path / "made", "keep")


HEADER = 20_000  # bytes, about


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, HEADER), st.integers(1, 255)), min_size=1, max_size=3))
def test_a_damaged_header_is_no_other_error(shared: Path, tmp_path_factory: pytest.TempPathFactory,
                                            flips: list[tuple[int, int]]) -> None:
    raw = bytearray((shared / "models" / "stories260k" / Q8).read_bytes())
    for at, bits in flips:
        raw[at] ^= bits
    path = tmp_path_factory.mktemp("flipped") / "x.gguf"
    path.write_bytes(raw)
    with suppress(OffloadError, SpecexecError):
        model = Gguf(path)
        config = admit(model.config)
        converted(model, Goal("nf4", "tile16", config.num_hidden_layers, config.tie_word_embeddings))
    shutil.rmtree(path.parent)


def test_what_is_no_model_of_ours_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = write(saved("llama"), tmp_path / "other.gguf")
    path.write_bytes(path.read_bytes().replace(b"llama", b"gemma"))
    with pytest.raises(OffloadError, match="gemma"):
        _ = Gguf(path).config


def test_a_copy_of_kept_matrices_is_of_their_own_weights(stories: Path, tmp_path: Path) -> None:
    made = store(stories / Q8, tmp_path / "made", "keep")
    convert(with_copy(relaid(made, None, "tile16"), "3bit"), made.path, Nobody())
    at_once = with_copy(converted(Gguf(stories / Q8), Goal("keep", "tile16", len(made.layers), made.tied)), "3bit")
    convert(at_once, tmp_path / "at_once", Nobody())
    assert Store(made.path).manifest == Store(tmp_path / "at_once").manifest
    held, kept = load_file(made.path / made.layers[0]), load_file(made.path / copy_name(0))
    wanted = quantise(unpacked(made, held, "mlp.up_proj", "q8_0"), "3bit", "tile16")
    assert torch.equal(kept["mlp.up_proj.weight"], wanted.codes)
