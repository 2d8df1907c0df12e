"""What a model that is not here yet will be on this machine, in one line, from what was measured before."""

from cli import home
from cli.forecast import Asked, forecast
from cli.ledger import STORE_CONTEXT, demand, positions
from cli.models import TREE
from cli.subject import Subject
from offload.machine import free_memory
from offload.measured import Known
from offload.outlook import TYPICAL
from offload.plan import plan
from offload.size import size


def prospect(of: Subject) -> str:
    """Raises TooLittleMemory where it cannot run."""
    placed = plan(of.of, free_memory(), demand(positions(of.config, None, STORE_CONTEXT), TREE, 0))
    away = f", {size(placed.streamed)} read from disk in every pass" if placed.streamed else ""
    return f"{placed.pinned} of {of.of.layers} layers stay in memory{away}; {_speed(of)}"


def _speed(of: Subject) -> str:
    try:
        outlook = forecast(Asked(of, (), None, None, None, 16), Known(home.machine())).outlook
    except LookupError:
        return "specexec plan measures this machine and says how fast"
    fast = outlook.speculation(*TYPICAL).tokens_per_second
    return f"predicted {fast:.3g} tokens/s (plain {1 / outlook.plain.seconds:.2g}); limit: {outlook.plain.limit}"
