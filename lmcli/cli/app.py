"""The command line as a whole: `app` with its commands, and `run`, the one place where errors end."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Annotated, Any, NoReturn

import typer
import typer.core
from typer._click.exceptions import ClickException

from lmcli import __version__
from lmcli.cli.commands import caching, configuring, exporting, models, pipelines, pulling
from lmcli.cli.commands.completion import VARIABLE, complete_names, completion, enable
from lmcli.cli.commands.manual import man
from lmcli.cli.commands.stages import STAGES, alone
from lmcli.cli.config.context import NO_CONFIG, blamed, configure
from lmcli.cli.config.keys import variable
from lmcli.cli.messages import is_json, say, set_log_format
from lmcli.cli.signals import Stopped
from lmcli.errors import EXIT_OK, LmcliError, StreamError, reason


class _ReaderLeft(BaseException):
    """Whoever read stdout has left."""


class _Group(typer.core.TyperGroup):
    """Commands as Typer runs them, with options from elsewhere and completed names of bundles.

    A closed pipe is no failure: Typer would exit with 1.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, command in self.commands.items():
            configure(name, command)
            complete_names(command, name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            raise blamed(error) from None
        except BrokenPipeError:
            raise _ReaderLeft from None


app = typer.Typer(
    name="lmcli",
    cls=_Group,
    help="grep and jq for language models: text in, text out, ONNX models inside.",
    epilog="Exit codes: 0 all good, 1 some records failed, 2 wrong use, 65 and above see docs/index.md.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for stage in STAGES:
    app.command()(alone(stage))
app.command()(pipelines.pipe)
app.command()(pipelines.run)
app.command()(pulling.pull)
app.command()(exporting.export)
app.add_typer(models.app, name="models")
app.add_typer(caching.app, name="cache")
app.add_typer(configuring.app, name="config")
app.command()(completion)
app.command()(man)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lmcli {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
    no_config: Annotated[
        bool, typer.Option("--no-config", envvar=NO_CONFIG, help="Read no configuration files.")
    ] = False,
) -> None:
    pass


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    set_log_format("json" if _wants_json(words) else "text")
    try:
        enable()
        code = app(args=words, complete_var=VARIABLE, standalone_mode=False)
        return code if isinstance(code, int) else EXIT_OK
    except SystemExit as done:  # how completion leaves
        return done.code if isinstance(done.code, int) else EXIT_OK
    except ClickException as error:
        error.message = error.message.replace("Value error, ", "")
        if is_json():
            say(error.format_message(), hint="--help shows what there is")
        elif sys.stderr is not None:
            with suppress(OSError):
                error.show()
        return error.exit_code
    except LmcliError as error:
        say(error.message, hint=error.hint, excerpt=error.excerpt)
        return error.exit_code
    except Stopped as stopped:
        return stopped.exit_code or EXIT_OK
    except _ReaderLeft:
        _die_of_sigpipe()
    except Exception as error:
        if Stopped.exit_code is not None:  # C code that was interrupted raised something else
            return Stopped.exit_code
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO):  # Typer prints help
            say(f"cannot write standard output: {reason(error)}")
            return StreamError.exit_code
        trace = traceback.format_exc()
        say("this is a bug in lmcli", excerpt=trace, hint="please report it with the lines above")
        return LmcliError.exit_code


def _wants_json(words: Sequence[str]) -> bool:
    """Whether messages are to be JSON, known before the command line is: it may be what is wrong."""
    typed = [word.removeprefix("--log-format=") for word in words if word.startswith("--log-format=")]
    typed += [value for option, value in pairwise(words) if option == "--log-format"]
    return "json" in (typed or [os.environ.get(variable("log-format"), "")])


def _die_of_sigpipe() -> NoReturn:
    """The reader of stdout has left: end as any filter does, without a word."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    sys.exit(128 + signal.SIGPIPE)
