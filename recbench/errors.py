"""What a user can get wrong, and the exit code that says so: printed as one line, never as a traceback."""


class RecbenchError(Exception):
    """Base of all errors that are reported in one line; `exit_code` is the process's status."""

    exit_code = 1


class UsageError(RecbenchError):
    """A wrong command, name, key or value."""

    exit_code = 2


class DataError(RecbenchError):
    """A file that is missing, malformed or not what it claims to be."""

    exit_code = 3


class FaultyFileError(DataError):
    """A file in which much is wrong: `report` has all of it, for standard output."""

    def __init__(self, message: str, *, report: str) -> None:
        super().__init__(message)
        self.report = report


class CheckpointError(RecbenchError):
    """A checkpoint that is damaged, of another method, or of an unknown format."""

    exit_code = 4


class DivergedError(RecbenchError):
    """Training or scoring produced NaN or infinity."""

    exit_code = 5


class ResourceError(RecbenchError):
    """Out of memory or disk."""

    exit_code = 6
