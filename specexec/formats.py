"""The quantised tensor formats, defined once, with the exact dequantise that kernels are tested against.

A weight is absmax * NF4[code] (nf4) or absmax * q / 127 (int8), where 64 weights along K share an absmax in fp16, extreme *
level[code] / 127 (3bit: of the 64 the one farthest from zero, with its sign), or what a GGUF file keeps: scale * (code - 8)
(q4_0) or scale * q (q8_0), where 32 share a scale in fp16 (SHARED). Ragged edges are filled with weights that are zero, to Kp
columns, a multiple of GROUP, and, in tile16, Np rows.

rowmajor (bitsandbytes' order): codes uint8[N, Kp/2], high nibble = even column, or int8[N, Kp]; scales fp16[N, Kp/SHARED].
tile16 (16 rows side by side): codes uint8[Np/16, Kp/8, 16, 4], where byte j of a row's columns k0..k0+7 holds k0+j in its low
nibble and k0+4+j in its high one, or int8[Np/16, Kp/4, 16, 4], a row's columns k0..k0+3; scales fp16[Np/16, Kp/SHARED, 16].
3bit: of a row's columns k0..k0+31 three times four bytes, [N, 3*Kp/8] or [Np/16, 3*Kp/32, 16, 4]. In the first byte j holds the
lower two bits of k0+j, k0+4+j, k0+8+j and k0+12+j from bit 0 on, in the second those 16 columns on, in the third the upper bit
of k0+j+4*i in bit i.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from specexec import nf4, three_bit
from specexec.codes import joined, split
from specexec.kinds import BITS, GROUP, KEPT, LAYOUTS, SHARED, TILE
from specexec.levels import Levels

KINDS = {"nf4": torch.uint8, "int8": torch.int8, "q4_0": torch.uint8, "q8_0": torch.int8,  # and the dtype of their codes
         "3bit": torch.uint8}
ZERO = {"nf4": 7, "int8": 0, "q4_0": 8, "q8_0": 0, "3bit": 3}  # the code of a weight that is zero
TABLES: dict[str, Levels] = {"nf4": nf4.LEVELS, "3bit": three_bit.LEVELS}  # of kinds whose codes are places in one
OF_127 = ("int8", "3bit")  # whose levels are whole numbers of 1/127, which is divided by last

BLOCK = 1 << 18  # weights worked on at a time: 6 MB of temporaries, near a core's cache
DEVICE_BLOCK = 1 << 22  # on CUDA, where each call costs what thousands of weights do


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight [rows, columns] as codes and scales of the dtypes and `shapes` that kind and layout ask for.

    Both are contiguous: the kernels read them as they lie. Raises ValueError where they are not so.
    """

    kind: str
    layout: str
    rows: int
    columns: int
    codes: torch.Tensor
    scales: torch.Tensor

    def __post_init__(self) -> None:
        codes, scales = shapes(self.kind, self.layout, self.rows, self.columns)
        self._check("codes", self.codes, KINDS[self.kind], codes)
        self._check("scales", self.scales, torch.float16, scales)

    def _check(self, name: str, x: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        if (x.dtype, x.shape, x.is_contiguous()) != (dtype, shape, True):
            of = f"{name} of {self.kind} {self.layout} [{self.rows}, {self.columns}]"
            raise ValueError(f"{of} are contiguous {dtype}{list(shape)}, not {x.dtype}{list(x.shape)} in strides {x.stride()}")

    @property
    def padded_rows(self) -> int:
        return self.rows + (-self.rows % TILE if self.layout == "tile16" else 0)

    @property
    def padded_columns(self) -> int:
        return self.columns + -self.columns % GROUP

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


def shapes(kind: str, layout: str, rows: int, columns: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape of the codes, shape of the scales). Raises ValueError for a kind, layout or size that cannot be."""
    if kind not in KINDS or layout not in LAYOUTS:
        raise ValueError(f"{kind!r} in {layout!r} is not one of {', '.join(KINDS)} in one of {', '.join(LAYOUTS)}")
    if rows < 1 or columns < 1:
        raise ValueError(f"a weight of {rows} rows and {columns} columns is empty")
    padded, tiles = columns + -columns % GROUP, -(-rows // TILE)
    width, groups = padded * BITS[kind] // 8, padded // SHARED[kind]
    if layout == "rowmajor":
        return (rows, width), (rows, groups)
    return (tiles, width // 4, TILE, 4), (tiles, groups, TILE)


def told(codes: torch.Tensor, scales: torch.Tensor) -> str | None:
    """The kind of a matrix, by its codes' dtype and how many share a scale; None where there is none."""
    each = 8 * codes.nbytes / max(scales.numel(), 1)
    return next((kind for kind, dtype in KINDS.items() if dtype == codes.dtype and SHARED[kind] * BITS[kind] == each), None)


def pack(kind: str, layout: str, codes: torch.Tensor, scales: torch.Tensor) -> Packed:
    """The weight of codes[N, K], one a byte, and scales fp16[N, ceil(K / SHARED)], as they are."""
    packed = _empty(kind, layout, codes.shape[0], codes.shape[1], codes.device)
    codes = F.pad(codes, (0, packed.padded_columns - packed.columns), value=ZERO[kind])
    _store(packed, slice(0, packed.rows), codes, F.pad(scales, (0, codes.shape[1] // SHARED[kind] - scales.shape[1])))
    return packed


def quantise(weight: torch.Tensor, kind: str, layout: str) -> Packed:
    """weight[N, K] of any float dtype as nf4 (bitsandbytes' codes), int8 or 3bit. A group whose absmax is 0 in fp16
    becomes zero.

    Raises ValueError for what is not a matrix of floats, holds NaN or an infinity, or has an absmax above fp16's range.
    """
    if kind in KEPT:
        raise ValueError(f"{kind} is kept where a GGUF file has it, and never made")
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"a weight is a matrix of floats, not {weight.dtype}{list(weight.shape)}")
    packed = _empty(kind, layout, weight.shape[0], weight.shape[1], weight.device)
    for block in _blocks(packed):
        _store(packed, block, *_encode(kind, weight.detach()[block].float().contiguous()))
    return packed


def relay(packed: Packed, layout: str) -> Packed:
    """The same codes and scales in `layout`; packed itself where they already are."""
    if packed.layout == layout:
        return packed
    other = _empty(packed.kind, layout, packed.rows, packed.columns, packed.codes.device)
    for block in _blocks(packed):
        _store(other, block, *_load(packed, block))
    return other


def dequantise(packed: Packed, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """dtype[N, K], rounded from fp32; int8's absmax * q is exact there, and / 127 rounds it once."""
    weight = torch.empty(packed.rows, packed.columns, dtype=dtype, device=packed.codes.device)
    for block in _blocks(packed):
        weight[block] = _decode(packed.kind, *_load(packed, block))[:, : packed.columns]
    return weight


def _empty(kind: str, layout: str, rows: int, columns: int, device: torch.device) -> Packed:
    codes, scales = shapes(kind, layout, rows, columns)
    new = torch.empty(codes, dtype=KINDS[kind], device=device), torch.empty(scales, dtype=torch.float16, device=device)
    return Packed(kind, layout, rows, columns, *new)


def _blocks(packed: Packed) -> Iterator[slice]:
    """Rows of whole tiles, but for the last."""
    step = max((DEVICE_BLOCK if packed.codes.is_cuda else BLOCK) // packed.padded_columns // TILE, 1) * TILE
    return (slice(start, min(start + step, packed.rows)) for start in range(0, packed.rows, step))


def _encode(kind: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes[n, Kp], scales fp16[n, Kp/64]) of weight fp32[n, K]."""
    groups = F.pad(weight, (0, -weight.shape[1] % GROUP)).view(len(weight), -1, GROUP)
    extreme = three_bit.farthest(groups) if kind == "3bit" else groups.abs().amax(-1)
    scales, table = extreme.half(), TABLES.get(kind)
    if not bool(scales.isfinite().all()):
        largest = float(extreme.abs().max())
        raise ValueError(f"The largest absmax is {largest:g}, but fp16 ends at 65504. Keep this tensor in bf16.")
    steps = 1 / extreme if table else 127 / scales.float()  # levels before it is rounded, as bitsandbytes does
    x = groups * steps.masked_fill(scales == 0, 0)[..., None]
    codes = table.nearest(x) if table else x.round_().clamp_(-127, 127).to(torch.int8)
    return codes.flatten(1), scales


def _decode(kind: str, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """fp32[n, Kp]"""
    table = TABLES.get(kind)
    units = table.of(codes) if table else codes.float()
    weight = (units - 8 if kind == "q4_0" else units).view(*scales.shape, SHARED[kind]) * scales.float()[..., None]
    return (weight / 127 if kind in OF_127 else weight).flatten(1)


def _rows(packed: Packed, block: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of the rows `block`: [n, ...] of them as they lie, or [tiles, 16, ...] of their tiles."""
    if packed.layout == "rowmajor":
        return packed.codes[block], packed.scales[block]
    tiles = slice(block.start // TILE, -(-block.stop // TILE))
    return packed.codes[tiles].transpose(1, 2), packed.scales[tiles].transpose(1, 2)


def _store(packed: Packed, block: slice, codes: torch.Tensor, scales: torch.Tensor) -> None:
    """Writes codes[n, Kp] and scales[n, Kp/SHARED] of the rows `block`, and zeros to their last tile's end."""
    to_codes, to_scales = _rows(packed, block)
    missing = (0, 0, 0, -len(codes) % TILE if packed.layout == "tile16" else 0)
    codes = F.pad(codes, missing, value=ZERO[packed.kind])
    lines = joined(codes, BITS[packed.kind], packed.layout)
    to_codes.view(torch.int32).copy_(lines.view(to_codes.shape).view(torch.int32))  # words move far faster than bytes
    to_scales.copy_(F.pad(scales, missing).view(to_scales.shape))


def _load(packed: Packed, block: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes[n, Kp], scales fp16[n, Kp/SHARED]) of the rows `block`."""
    lines, scales = _rows(packed, block)
    if packed.layout == "tile16":
        lines, scales = (x.flatten(0, 1).flatten(1)[: block.stop - block.start] for x in (lines, scales))
    return split(lines, BITS[packed.kind], packed.layout), scales
