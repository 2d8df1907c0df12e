"""Codes of four and of three bits in bytes: how formats.py describes it."""

import torch

PAIRED = {"rowmajor": torch.uint8, "tile16": torch.int32}  # two columns in a byte, or two words of four
TWO, ONE = 0x03030303, 0x01010101  # bits of each byte of a word


def joined(codes: torch.Tensor, bits: int, layout: str) -> torch.Tensor:
    """[n, Kp * bits / 8] of codes[n, Kp], one a byte."""
    if bits == 8:
        return codes
    return _thirds(codes) if bits == 3 else _halves(codes, layout)


def split(lines: torch.Tensor, bits: int, layout: str) -> torch.Tensor:
    """codes[n, Kp]: undoes joined."""
    if bits == 8:
        return lines
    return _of_thirds(lines) if bits == 3 else _of_halves(lines, layout)


def _halves(codes: torch.Tensor, layout: str) -> torch.Tensor:
    first, second = codes.view(PAIRED[layout]).view(len(codes), -1, 2).unbind(2)
    return (first << 4 | second if layout == "rowmajor" else second << 4 | first).view(torch.uint8)


def _of_halves(lines: torch.Tensor, layout: str) -> torch.Tensor:
    words, mask = lines.view(PAIRED[layout]), 0x0F if layout == "rowmajor" else 0x0F0F0F0F
    pair = words >> 4 & mask, words & mask
    return torch.stack(pair if layout == "rowmajor" else pair[::-1], -1).flatten(1).view(torch.uint8)


def _thirds(codes: torch.Tensor) -> torch.Tensor:
    words = codes.view(torch.int32).view(len(codes), -1, 2, 4)  # of four columns, of which eight are one run
    run = torch.zeros(*words.shape[:2], 3, dtype=torch.int32, device=codes.device)
    for at in range(4):
        run[..., :2] |= (words[..., at] & TWO) << 2 * at
        run[..., 2] |= (words[..., 0, at] >> 2 & ONE) << at | (words[..., 1, at] >> 2 & ONE) << at + 4
    return run.flatten(1).view(torch.uint8)


def _of_thirds(lines: torch.Tensor) -> torch.Tensor:
    run = lines.view(torch.int32).view(len(lines), -1, 3)
    words = [run[..., at // 4] >> 2 * (at % 4) & TWO | (run[..., 2] >> at & ONE) << 2 for at in range(8)]
    return torch.stack(words, -1).flatten(1).view(torch.uint8)
