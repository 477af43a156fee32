"""The command line: `regfast study|paper|train|attack|evaluate|compare|report|show-config`; one file a command.

Commands read options, call one function and print. What a user can get wrong is answered by one line and status 2.
"""

import dis
import sys
from typing import Any

import typer
from typer.core import TyperCommand

from regfast.cli.attack import attack
from regfast.cli.compare import compare
from regfast.cli.evaluate import evaluate
from regfast.cli.paper import paper
from regfast.cli.report import report
from regfast.cli.show_config import show_config
from regfast.cli.study import study
from regfast.cli.train import train

app = typer.Typer(
    name="regfast",
    help="Train with soft labels, measure what they do to the representation space, and attack what came out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Command(TyperCommand):
    """A command whose help names what the registries hold; they are read, and torch imported, for that help alone."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:
            text = getattr(parameter, "help", None) or ""
            if "{attacks}" in text:
                from regfast.attacks.registry import ATTACKS

                parameter.help = text.replace("{attacks}", ", ".join(ATTACKS.names()))  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


for _command in (study, paper, train, attack, evaluate, compare, report, show_config):
    app.command(cls=_Command)(_command)

_INTERRUPTED = 130
# Typer may carry its own copy of click: its base class is reached through what Typer exports.
_UsageError: Any = typer.BadParameter.__mro__[1]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 wrong options or input, 1 a failure of ours, 130 interrupted."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """As `main`, but return the exit status."""
    try:
        status = app(args=arguments, standalone_mode=False)
        if status == _INTERRUPTED:  # Typer's answer to Ctrl-C
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except _UsageError as error:
        return _complain(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted; the same command goes on where it stopped", _INTERRUPTED)
    except (ValueError, TypeError, IndexError, RuntimeError, OSError, ImportError) as error:
        if not _raised_by_regfast(error):
            raise
        return _complain(str(error), 2)


def _raised_by_regfast(error: BaseException) -> bool:
    """Whether it answers the user's input: a `raise` of our own code, and no slip in it or in a library."""
    origin = getattr(error.__cause__, "origin", None)  # of an error in a worker process, the module that raised it
    if origin is not None:
        return str(origin).startswith("regfast.")
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return False
    code = place.tb_frame.f_code.co_code
    deliberate = code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return deliberate and str(place.tb_frame.f_globals.get("__name__")).startswith("regfast.")


def _complain(message: str, status: int) -> int:
    print(f"regfast: {' '.join(message.split())}", file=sys.stderr)
    return status
