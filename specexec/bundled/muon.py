"""Momentum made orthogonal by Newton-Schulz steps.   Muon, Jordan et al. 2024

In fp32, unlike torch.optim.Muon: bf16 products are emulated, and three times slower, on CPUs without bf16 instructions.
"""

from collections.abc import Iterable

import torch

STEPS, A, B, C = 5, 3.4445, -4.775, 2.0315


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """The nearest matrices with singular values around 1 to fp32 x[k, rows, columns]."""
    tall = x.shape[1] > x.shape[2]
    x = x.mT.contiguous() if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        a = x @ x.mT
        x = A * x + (B * a + C * (a @ a)) @ x
    return x.mT if tall else x


class Muon:
    """Steps on matrices; those of equal shape are stacked and done together."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        self.lr, self.decay, self.beta = lr, weight_decay, 0.95
        by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
        for p in matrices:
            by_shape.setdefault(p.shape, []).append(p)
        self.groups = [(group, torch.zeros(len(group), *shape)) for shape, group in by_shape.items()]

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One step at `scale` times the learning rate."""
        for group, momentum in self.groups:
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            momentum.lerp_(gradient, 1 - self.beta)
            update = orthogonal(gradient.lerp(momentum, self.beta))
            update *= max(1.0, momentum.shape[1] / momentum.shape[2]) ** 0.5
            for p, u in zip(group, update, strict=True):
                p.mul_(1 - self.lr * scale * self.decay).add_(u, alpha=-self.lr * scale)
