"""What went wrong, and what to type next.

offload/errors.py has the same shape; cli turns either into two lines and an exit code without knowing the classes.
"""


class SpecexecError(Exception):
    """`str(error)` says what happened, with names and numbers; `hint` says what to type next."""

    exit_code = 1

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


class Unsupported(SpecexecError):
    """A model this engine will not run."""


class WrongUsage(SpecexecError):
    """Options, prompts or pairs of models that cannot be."""

    exit_code = 2


class ContextFull(SpecexecError):
    """A position past the context was asked for."""

    exit_code = 2


class Damaged(SpecexecError):
    """Weights that do not fit their own configuration."""

    exit_code = 5


class Failed(SpecexecError):
    """An engine that is not ours gave up."""


class Interrupted(Exception):
    """The person pressed Ctrl-C: raised between two layers, where every cache is as before the pass."""
