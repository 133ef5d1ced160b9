"""The harness's error tree, with the exit code each gives on the command line.

    MingEvalError
    ├── UsageError    2   the command cannot mean anything: bad option, unknown name
    ├── TargetError   3   the server cannot be reached or is not what was asked for
    └── DataError     4   a data set, media file or stored run cannot be read

Exit 1 is a run that completed with more failures than allowed, 130 one that was interrupted.
Every message says what was wrong, which value, and what to do.
"""

from __future__ import annotations


class MingEvalError(Exception):
    """Base of everything the harness raises on purpose."""

    exit_code = 1


class UsageError(MingEvalError):
    """The command line or a configuration file asks for something that has no meaning."""

    exit_code = 2


class TargetError(MingEvalError):
    """The server under test cannot be reached, or does not answer as its dialect says."""

    exit_code = 3


class DataError(MingEvalError):
    """Input data or a stored run cannot be read."""

    exit_code = 4
