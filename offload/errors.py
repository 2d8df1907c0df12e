"""What went wrong with models, files and machines, and what to type next. specexec/errors.py has the same shape."""


class OffloadError(Exception):
    """`str(error)` says what happened, with names and numbers; `hint` says what to type next."""

    exit_code = 1

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


class Refused(OffloadError):
    """A model whose files would have to be trusted with more than weights."""


class NotHere(OffloadError):
    """No such model or folder."""

    exit_code = 4


class DamagedFiles(OffloadError):
    """Files that are missing, broken or cut short."""

    exit_code = 5


class TooLittleMemory(OffloadError):
    """A model that does not fit, whatever is streamed."""

    exit_code = 3
