"""Everything lmcli can refuse, with the exit code of each.

    LmcliError                 70  a bug, unless a subclass says otherwise
      UsageError                2  wrong options or arguments
      DataError                65  an input is unusable as a whole
      ExportError              65  a checkpoint cannot be exported faithfully
      NoInputError             66  an input does not exist or cannot be opened
      UnavailableError         69  a provider, package or source is not available
      OutputError              73  the output cannot be created
        ResumeError            73  what an earlier run left behind belongs to another job
      StreamError              74  reading or writing failed half-way
      TryAgainError            75  not now: another run holds what this one needs
      BundleError              76  a bundle is missing, damaged, foreign or too new
      ConfigError              78  a configuration file or a variable sets what makes no sense

The codes are those of BSD sysexits.h where one fits. Two more belong to the whole run, not to an exception:
0 (every record is good) and 1 (the run finished, some records failed).
"""

from typing import ClassVar

REBUILD = "get the bundle again, or export the model again with `lmcli export`"

EXIT_OK = 0
EXIT_RECORDS_FAILED = 1
EXIT_HUNG_UP = 129
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class LmcliError(Exception):
    """An error to show as one line, `message`, and below it what to do next, `hint`.

    Between them `excerpt` shows the place, in lines of its own.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "", excerpt: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.excerpt = excerpt


class UsageError(LmcliError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class DataError(LmcliError):
    """An input is unusable as a whole: a truncated archive, a table without the wanted column."""

    exit_code = 65


class ExportError(LmcliError):
    """A checkpoint cannot be exported, or the exported graph fails its proof."""

    exit_code = 65


class NoInputError(LmcliError):
    """An input does not exist or cannot be opened."""

    exit_code = 66


class UnavailableError(LmcliError):
    """A provider (CUDA), an optional package or a model source is not available."""

    exit_code = 69


class OutputError(LmcliError):
    """The output cannot be created."""

    exit_code = 73


class ResumeError(OutputError):
    """An unfinished output belongs to a job that reads or does something else."""


class StreamError(LmcliError):
    """Reading or writing failed half-way: a full disk, a closed stdout, an I/O error."""

    exit_code = 74


class TryAgainError(LmcliError):
    """What this run needs is in use; the same command may work later."""

    exit_code = 75


class BundleError(LmcliError):
    """A bundle is missing, damaged, incomplete, foreign, or of a newer format."""

    exit_code = 76


class ConfigError(LmcliError):
    """A configuration file or an environment variable sets what makes no sense."""

    exit_code = 78


def reason(error: Exception) -> str:
    """What to tell of an error of the operating system."""
    return getattr(error, "strerror", None) or str(error)
