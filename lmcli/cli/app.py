"""The command line as a whole: `app` with its commands, and `run`, the one place where errors end."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from lmcli import __version__
from lmcli.cli import embedding, exporting, generating, labelling, models, prompting, pulling
from lmcli.cli.messages import say
from lmcli.cli.signals import Stopped
from lmcli.errors import EXIT_OK, LmcliError


class _ReaderLeft(BaseException):
    """Whoever read stdout has left."""


class _Group(typer.core.TyperGroup):
    """Commands as Typer runs them, except that a closed pipe is no failure: Typer would exit with 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
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
app.command()(labelling.sentiment)
app.command()(labelling.ner)
app.command()(generating.translate)
app.command()(generating.summarize)
app.command()(prompting.prompt)
app.command()(embedding.embed)
app.command()(pulling.pull)
app.command()(exporting.export)
app.add_typer(models.app, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lmcli {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        app(args=argv)
    except SystemExit as done:  # how Typer always leaves
        return done.code if isinstance(done.code, int) else EXIT_OK
    except LmcliError as error:
        say(error.message, hint=error.hint)
        return error.exit_code
    except Stopped as stopped:
        return stopped.exit_code or EXIT_OK
    except _ReaderLeft:
        _die_of_sigpipe()
    except Exception:
        if Stopped.exit_code is not None:  # C code that was interrupted raised something else
            return Stopped.exit_code
        traceback.print_exc()
        say("this is a bug in lmcli: please report it with the lines above")
        return LmcliError.exit_code
    return EXIT_OK


def _die_of_sigpipe() -> NoReturn:
    """The reader of stdout has left: end as any filter does, without a word."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    sys.exit(128 + signal.SIGPIPE)
