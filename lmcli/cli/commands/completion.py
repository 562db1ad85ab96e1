"""The command `completion`: a script for the shell, which asks lmcli itself what could come next.

Typer has the scripts and the answers; they come from the parser, so they know every option and choice. Added
here are the names of bundles, and `--option=value` in bash.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from lmcli.cli.messages import print_data
from lmcli.errors import UsageError

VARIABLE = "_LMCLI_COMPLETE"
"""Set by the scripts: lmcli answers and does nothing else."""

# What takes the name of a bundle, by command; "" is any command.
_BUNDLES = {
    ("", "model"),
    ("", "embedder"),
    ("show", "name"),
    ("verify", "names"),
    ("rm", "name"),
}


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="The shell to complete in.")],
) -> None:
    """Print a script that completes commands, options, choices and names of bundles on Tab.

    Example: source <(lmcli completion bash)
    """
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="lmcli", complete_var=VARIABLE, shell=shell)
    print_data(f"{script}\n{_ZSH if shell == 'zsh' else ''}")


# A file of this script in zsh's $fpath is run by the first Tab, as the function that it defines.
_ZSH = '[[ $funcstack[1] != _lmcli ]] || _lmcli_completion "$@"\n'


def enable() -> None:
    """Make the parser answer the scripts, if one is asking now."""
    if VARIABLE not in os.environ:
        return
    from typer._click.shell_completion import add_completion_class
    from typer._completion_classes import BashComplete, completion_init

    class Bash(BashComplete):
        """Bash hands over `--by=line` as three words."""

        def get_completion_args(self) -> tuple[list[str], str]:
            args, incomplete = super().get_completion_args()
            *args, incomplete = _join([*args, incomplete])
            return args, incomplete

    completion_init()
    add_completion_class(Bash, "bash")


def _join(words: Iterable[str]) -> list[str]:
    joined: list[str] = []
    for word in words:
        is_value = bool(joined) and joined[-1].startswith("--") and joined[-1].endswith("=")
        is_equals = word == "=" and bool(joined) and joined[-1].startswith("--")
        if is_value or is_equals:
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def complete_names(command: Any, name: str = "") -> None:
    """Let the parameters of a command and of those below it that name bundles complete them."""
    for below, inner in getattr(command, "commands", {}).items():
        complete_names(inner, below)
    for param in command.params:
        if {("", param.name), (name, param.name)} & _BUNDLES:
            param.shell_complete = _complete_bundles
        elif (name, param.name) == ("pull", "name"):
            param.shell_complete = _complete_catalogue


def _complete_bundles(_: typer.Context, incomplete: str) -> list[Any]:
    return _items(incomplete, _bundles())


def _complete_catalogue(_: typer.Context, incomplete: str) -> list[Any]:
    from lmcli.bundle.catalogue import catalogue

    return _items(incomplete, catalogue())


def _items(incomplete: str, names: Iterable[str]) -> list[Any]:
    from typer._click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in sorted(set(names)) if name.startswith(incomplete)]


def _found(place: Path, pattern: str) -> list[Path]:
    """Nothing in a folder that is closed to the user."""
    with suppress(OSError):
        return list(place.glob(pattern))
    return []


def _bundles() -> Iterator[str]:
    """Names only: to look into the bundles would take longer than a person waits for a key."""
    from lmcli.bundle.manifest import MANIFEST_NAME
    from lmcli.bundle.store import check_name, shipped, user_store

    for place in (Path("exported"), user_store(), shipped()):
        for path in _found(place, f"*/{MANIFEST_NAME}") if place is not None else ():
            # The shell evaluates what it is told, and ./exported may come from anybody.
            with suppress(UsageError):
                check_name(path.parent.name)
                yield path.parent.name
