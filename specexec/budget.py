"""How much to draft: as much as brings the most tokens a second, by what passes turn out to cost and to bring."""

import numpy as np

from specexec.cost import HOPE
from specexec.price import Price
from specexec.roles import Pass, Worth

FIRST = 32  # tokens of a pass that carries a tree when nothing is known about the machine
MEMORY = 0.9  # weight of all earlier passes in the rate when a new one comes
IDLE = 3  # passes without a draft after which nothing looks for one
SELDOM, PAUSE = 64, 1.0  # of them, between two looks at the most, and seconds between these at the least
SPARE = 0.002  # the share of time spent on looking again
WAKING = 3  # plain passes that looks may take, all together, where the text has changed
FEW = 16  # tokens above node 0 beyond which a pass reads a prompt, and says little about the rate


class Fixed:
    """Implements Budget: always so many nodes."""

    def __init__(self, nodes: int) -> None:
        self._worth = Worth(nodes, passes=SELDOM)

    def worth(self, missing: int) -> Worth:
        return self._worth

    def learn(self, pass_: Pass) -> None:
        """There is nothing to learn."""

    def wake(self) -> None:
        """It never sleeps."""


class Auto:
    """Implements Budget. most: nodes that there is memory for. price: seconds of all but drafting, by tokens of a pass.

    least: seconds of a pass below which nothing is drafted: what a guess takes of Python would be as long.

    Where drafting does not pay it is not tried, but for looks ever further apart that a small share of the time pays for, and
    where somebody says that the text has changed.
    """

    def __init__(self, most: int, least: float = 0.0) -> None:
        self.most, self.least, self._price = most, least, Price()
        self._tokens = self._seconds = 0.0  # lately
        self._idle = 0  # passes without a draft, the last ones
        self._spare = 0.0  # seconds saved up for a look
        self._slept = 0.0  # seconds since one was due
        self._passes: list[Pass] = []  # that the price does not know yet

    @property
    def price(self) -> Price:
        """As the passes so far tell it; asleep, nobody asks for it."""
        if self._passes and self._price.work.due(one.seconds for one in self._passes):
            tokens, took, waited = zip(*((p.missing + p.nodes, p.seconds, p.waited) for p in self._passes), strict=True)
            self._price, self._passes = self._price.measured(tokens, took, waited), []
        return self._price

    @price.setter
    def price(self, known: Price) -> None:
        self._price = known

    @property
    def rate(self) -> float:
        """Tokens a second: what is reached, or plain decoding's where that is faster."""
        plain = 1 / float(self.price.seconds([1], -HOPE)[0])
        return max(plain, self._tokens / self._seconds) if self._seconds else plain

    def worth(self, missing: int) -> Worth:
        if not self._awake:
            return Worth(0, passes=self._asleep)
        self._slept = 0.0
        if not self.price.seen:
            return Worth(max(0, min(FIRST - missing, self.most)))
        if self.least and self.price.seconds([1])[0] < self.least:
            return Worth(0)
        tokens = np.arange(self.most + 1) + 1 + missing
        return Worth(self.most, self.rate, self.rate * self.price.seconds(tokens, HOPE), self._spare)

    @property
    def _awake(self) -> bool:
        if self._idle < SELDOM:
            return self._idle < IDLE or self._idle & (self._idle - 1) == 0
        return self._idle % SELDOM == 0 and self._slept >= PAUSE

    @property
    def _asleep(self) -> int:
        """Passes until it may be awake."""
        return (1 << self._idle.bit_length() if self._idle < SELDOM else SELDOM * (self._idle // SELDOM + 1)) - self._idle

    def wake(self) -> None:
        if self._idle >= IDLE:
            self._idle, self._spare = 0, max(self._spare, WAKING * float(self.price.seconds([1])[0]))

    def learn(self, pass_: Pass) -> None:
        self._passes.append(pass_)
        seconds = pass_.seconds + pass_.draft_seconds
        saved = SPARE * seconds if self._idle >= IDLE else 0.0
        self._spare = max(0.0, self._spare + saved - pass_.draft_seconds)
        self._slept += seconds
        self._idle = 0 if pass_.nodes > 1 else self._idle + 1
        if pass_.missing <= FEW:
            self._tokens = MEMORY * self._tokens + pass_.tokens
            self._seconds = MEMORY * self._seconds + seconds
