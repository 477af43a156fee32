"""The command line: `regfast study|paper|train|attack|evaluate|compare|report|show-config`; one file a command.

Commands read options, call one function and print. What a user can get wrong is answered by one line and status 2.
"""

import sys
import traceback
from typing import Any

import typer

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
for _command in (study, paper, train, attack, evaluate, compare, report, show_config):
    app.command()(_command)

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
    """Whether it is an answer to the user's input: raised by our own code, not by a library that we called wrongly."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames or (isinstance(error, ModuleNotFoundError) and str(error.name).startswith("regfast")):
        return False
    origin = getattr(error.__cause__, "origin", frames[-1])  # in a worker process, it is where the worker raised it
    return str(origin).startswith("regfast.")


def _complain(message: str, status: int) -> int:
    print(f"regfast: {' '.join(message.split())}", file=sys.stderr)
    return status
