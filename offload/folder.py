"""A Hugging Face folder as it was published: config.json and safetensors, one file or several."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from offload.errors import DamagedFiles, NotHere, OffloadError, Refused
from offload.told import Told, nobody

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
LAYERS, EMBEDDING, HEAD = "model.layers.", "model.embed_tokens.weight", "lm_head.weight"

Form = Callable[[str, torch.Tensor], Mapping[str, torch.Tensor]]
"""form(published name, tensor): the tensors it becomes, by name."""

Hold = Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]
"""hold(tensors of a layer, or of what is no layer): the same ones, wherever they are to stay."""


def json_object(path: Path) -> dict[str, Any]:
    """Of a file of a published model. Raises DamagedFiles."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = f"{path.parent} has no {path.name}."
        raise DamagedFiles(what, hint="a folder with config.json and model.safetensors") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFiles(f"{path} cannot be read: {error}", hint="fetch the model again") from error
    if not isinstance(found, dict):
        raise DamagedFiles(f"{path} holds no JSON object.", hint="fetch the model again")
    return found


class Folder:
    """Reads what a model folder says and holds; raises NotHere, Refused or DamagedFiles, each naming the file."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise NotHere(f"there is no folder {path}.", hint="-m bundled, or the path of a folder with config.json in it")
        if not any(path.iterdir()):
            raise DamagedFiles(f"the folder {path} is empty.", hint="a folder with config.json and model.safetensors in it")
        self.path = path
        self.config = self._json(CONFIG)
        self.generation = self._json("generation_config.json") if (path / "generation_config.json").exists() else {}

    def _json(self, name: str) -> dict[str, Any]:
        return json_object(self.path / name)

    def shards(self) -> list[Path]:
        """The safetensors files that hold the weights."""
        names = [SINGLE]
        if not (self.path / SINGLE).exists():
            self._refuse_others()
            names = self._indexed()
        paths = [self.path / name for name in names]
        for path in paths:
            if path.parent != self.path or not path.is_file():
                raise DamagedFiles(f"{path} is named in {INDEX} and is not here.", hint="fetch the model again")
        return paths

    def _indexed(self) -> list[str]:
        shards = self._json(INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise DamagedFiles(f"{self.path / INDEX} names no weights.", hint="fetch the model again")
        return sorted(set(shards.values()))

    def _refuse_others(self) -> None:
        if (self.path / INDEX).exists():
            return
        pickled = next((p for pattern in PICKLES for p in self.path.glob(pattern)), None)
        if pickled:
            raise Refused(f"{pickled} is a pickle, which can run any code when it is read; it is never opened.",
                          hint="a copy of the model in safetensors")
        raise DamagedFiles(f"{self.path} has no safetensors file.", hint="a folder with model.safetensors in it")

    @property
    def nbytes(self) -> int:
        """Of its weights, as they are stored."""
        return sum(path.stat().st_size for path in self.shards())

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor by its published name, as stored."""
        for path in self.shards():
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118  (no mapping)
                        yield name, file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise DamagedFiles(f"{path} is broken: {error}", hint="fetch the model again") from error


class ResidentWeights:
    """A folder's tensors, all in memory: implements the engine's WeightSource.

    tied: the head is the embedding. form: what becomes of each tensor. told: of its bytes, as stored. Raises DamagedFiles
    where a layer or the head is missing.
    """

    def __init__(
        self, folder: Folder, layers: int, tied: bool, form: Form, hold: Hold = dict, told: Told = nobody,
    ) -> None:
        self.folder = folder
        self._layers: list[dict[str, torch.Tensor]] = [{} for _ in range(layers)]
        self._resident: dict[str, torch.Tensor] = {}
        for name, tensor in folder.tensors():
            if not (tied and name == HEAD):
                for made, form_of_it in form(name, tensor).items():
                    self._keep(made, form_of_it)
            told(tensor.nbytes)
        self._check({EMBEDDING, "model.norm.weight"} | (set() if tied else {HEAD}))
        self._resident = hold(self._resident)
        for index, tensors in enumerate(self._layers):
            self._layers[index] = hold(tensors)

    def _check(self, wanted: set[str]) -> None:
        inner = set().union(*self._layers)
        missing = sorted(wanted - self._resident.keys())
        missing += [f"{LAYERS}{i}.{name}" for i, layer in enumerate(self._layers) for name in sorted(inner - layer.keys())]
        if missing or not inner:
            lacking = missing[0] if missing else f"{LAYERS}0"
            raise DamagedFiles(f"{self.folder.path} lacks {lacking}.", hint="fetch the model again")

    def _keep(self, name: str, tensor: torch.Tensor) -> None:
        if name.endswith("rotary_emb.inv_freq"):  # old checkpoints hold what the configuration says
            return
        if name.startswith(LAYERS):
            index, _, inner = name.removeprefix(LAYERS).partition(".")
            if index.isdecimal() and int(index) < len(self._layers):
                self._layers[int(index)][inner] = tensor
        else:
            self._resident[name] = tensor

    def resident(self) -> Mapping[str, torch.Tensor]:
        return self._resident

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        embedding = self._resident[EMBEDDING]
        return embedding[torch.tensor(tokens, device=embedding.device)]

    @contextmanager
    def layer(self, index: int) -> Iterator[Mapping[str, torch.Tensor]]:
        yield self._layers[index]

    @property
    def nbytes(self) -> int:
        groups = [self._resident, *self._layers]
        return sum(tensor.nbytes for group in groups for tensor in group.values())


def stored(folder: Folder) -> tuple[int, torch.dtype]:
    """(parameters, dtype of most of them), from the headers alone."""
    counts: dict[torch.dtype, int] = {}
    for path in folder.shards():
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (no mapping)
                    piece = file.get_slice(name)
                    size = torch.Size(piece.get_shape()).numel()
                    dtype = DTYPES.get(piece.get_dtype(), torch.uint8)
                    counts[dtype] = counts.get(dtype, 0) + size
        except (SafetensorError, OSError) as error:
            raise DamagedFiles(f"{path} is broken: {error}", hint="fetch the model again") from error
    dtype = max(counts, key=lambda kind: counts[kind], default=torch.uint8)
    if not dtype.is_floating_point:
        raise OffloadError(f"{folder.path} holds no floating-point weights.", hint="a model in fp32, bf16 or fp16")
    return sum(counts.values()), dtype


DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
