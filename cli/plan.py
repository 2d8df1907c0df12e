"""`specexec plan`: what a model will take of this machine, and how fast it will be, before anything is loaded."""

import json
from typing import TYPE_CHECKING, Any

import click

from cli import complete
from cli import options as table
from cli.option import act

if TYPE_CHECKING:  # torch is loaded when a command runs, not when it is named
    from cli.forecast import Forecast


@click.command(epilog="Examples: specexec plan Qwen/Qwen2.5-72B-Instruct   |   specexec plan ./Llama-3.3-70B --ram 20GiB")
@click.argument("model", shell_complete=complete.models)
@act("--json", "as_json", is_flag=True, help="One JSON object.")
@table.plan_options
def plan(model: str, as_json: bool, **given: Any) -> int:
    """Say what MODEL will take of this machine, and how fast it is.

    Nothing is loaded: MODEL and drafts may be a config.json alone, or org/name of the hub, which is asked for that and no more.
    The machine is measured once, which takes seconds.
    """
    from cli import forecast_table, render

    made = forecast_of(model, given)
    render.write(json.dumps(forecast_table.as_json(made)) + "\n" if as_json else forecast_table.text(made))
    return 0


def forecast_of(model: str, given: dict[str, Any]) -> "Forecast":
    """given: the options of `plan`. Measures what of this machine is not known yet."""
    from cli import forecast, home, render
    from cli.build import MODELLESS, resolve
    from cli.drafting import SELF
    from cli.low_bit import COPIED, check_layout
    from cli.models import ModelOptions
    from cli.remote import Hub
    from cli.subject import draft, target
    from offload.measured import Measured

    names = resolve(ModelOptions(model, given["draft"], kv=given["kv"], kv_place=given["kv_place"]))
    hub = Hub(given["to"], given["offline"], given["quiet"])
    subject, drafts = hub.subject(model, target), [hub.subject(name, draft) for name in names if name not in MODELLESS]
    if "auto" in given["draft"] and not drafts:
        drafts = hub.usual_draft(subject)
    asked = forecast.Asked(subject, tuple(drafts), given["ctx_size"], given["ram"], given["vram"] or None,
                           int(given["activations"]), SELF in names, given["kv"], given["kv_place"], COPIED in names)
    if asked.copied:
        check_layout(model, subject.layout)
    cache = Measured(home.machine(), given["measure"], lambda text: render.note(text, given["quiet"]))
    return forecast.forecast(asked, cache)
