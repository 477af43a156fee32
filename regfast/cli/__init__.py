"""The command line: `regfast measure|study|paper|train|attack|evaluate|compare|report|plot|…`; one file a command.

Commands read options, call one function and print. What a user can get wrong is answered by one line and status 2.
"""

import signal
import sys
import time
import traceback
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from regfast.cli._attacks import attack_names
from regfast.cli._console import console, leading
from regfast.cli.attack import attack
from regfast.cli.compare import compare
from regfast.cli.evaluate import evaluate
from regfast.cli.measure import measure
from regfast.cli.paper import paper
from regfast.cli.plot import plot
from regfast.cli.report import report
from regfast.cli.show_config import show_config
from regfast.cli.study import study
from regfast.cli.train import train
from regfast.runs.errors import InputError, RunStopped

NARROW = 60  # columns; below, panels would cut the names of options


class _Group(TyperGroup):
    """The commands together."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _fit(self)
        super().format_help(ctx, formatter)


class _Command(TyperCommand):
    """A command whose help names every attack."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:
            text = getattr(parameter, "help", None) or ""
            if "{attacks}" in text:
                parameter.help = text.replace("{attacks}", ", ".join(attack_names()))  # type: ignore[attr-defined]
        _fit(self)
        super().format_help(ctx, formatter)


def _fit(command: Any) -> None:
    """Plain lines in the place of panels where the terminal is narrow."""
    command.rich_markup_mode = None if console.width < NARROW else "rich"


app = typer.Typer(
    name="regfast",
    cls=_Group,
    help="Train with soft labels, measure what they do to the representation space, and attack what came out.",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _command in (measure, study, paper, train, attack, evaluate, compare, report, plot, show_config):
    app.command(cls=_Command)(_command)

_INTERRUPTED = 130
_FIRST_WORD = 10  # seconds that other ranks leave to the first one's error, and torchrun to end them
_RESUMED = ("measure", "study", "paper", "evaluate")  # commands that go on where they stopped
# Typer may carry its own copy of click: its base class is reached through what Typer exports.
_UsageError: Any = typer.BadParameter.__mro__[1]


def _version(asked: bool) -> None:
    if asked:
        from regfast import __version__

        print(f"regfast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error was raised, also one that answers your input.")
    ] = False,
) -> None:
    """Options of all commands; `run` reads them."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 wrong options or input, 1 a failure of ours, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # an ASCII terminal shows ? for ℓ
    warnings.showwarning = _warned
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """As `main`, but return the exit status. An error of ours is printed with its traceback, any other in one line."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        run(["--help"])
        return 2
    try:
        status = app(args=given, standalone_mode=False)
        if status == _INTERRUPTED:  # Typer's answer to Ctrl-C
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except _UsageError as error:
        return _refuse(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        command = next((word for word in given if not word.startswith("-")), "")
        goes_on = "; the same command goes on where it stopped" if command in _RESUMED else "; nothing was kept"
        if command == "attack":
            goes_on = "; the attacks that were finished are in the result file"
        return _complain(f"interrupted{goes_on}", _INTERRUPTED)
    except (InputError, RunStopped) as error:
        if "--traceback" in given:
            traceback.print_exc()
        return _refuse(str(error)) if isinstance(error, InputError) else _complain(str(error), 2)
    except Exception:
        traceback.print_exc()
        return 1


def _terminated(*_: object) -> NoReturn:
    """SIGTERM ends a command as Ctrl-C does: workers are ended, half-written files removed."""
    sys.exit(128 + signal.SIGTERM)


def _warned(message: Warning | str, *_: object, **__: object) -> None:
    _complain(f"warning: {message}", 0)


def _refuse(message: str) -> int:
    """Status 2 and why. Under torchrun the first rank has the first word, which ends the others: most find the same."""
    if not leading():
        time.sleep(_FIRST_WORD)
    return _complain(message, 2)


def _complain(message: str, status: int) -> int:
    print(f"regfast: {' '.join(message.split())}", file=sys.stderr)
    return status
