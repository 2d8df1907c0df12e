"""What a tree is grown for: the context, the sampling, the noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specexec.noise import Noise
from specexec.online import Ids, Vector
from specexec.prefix import common
from specexec.sampling import Penalties, Sampling


@dataclass(frozen=True)
class Setting:
    """context: token ids, the last one pending."""

    context: Sequence[int]
    sampling: Sampling
    noise: Noise
    penalties: Penalties

    def after(self, before: "Setting | None") -> Sequence[int] | None:
        """The tokens that `before`'s context lacks; None where it lacks none, or what was found for it means nothing here."""
        if before is None or self.noise is not before.noise or self.sampling != before.sampling:
            return None
        length = len(before.context)
        same = length < len(self.context) and common(before.context, self.context) == length
        return self.context[length:] if same else None

    def position_below(self, depth: int) -> int:
        """Where in the context a child of a node at `depth` stands."""
        return len(self.context) + depth

    def noise_of(self, depth: int, ids: Ids) -> Vector:
        """g[k] of children with `ids` below a node at `depth`; zeros where greedy."""
        if self.noise.silent:
            return np.zeros(len(ids))
        return self.noise.at(self.position_below(depth)).cpu().numpy()[ids].astype(np.float64)
