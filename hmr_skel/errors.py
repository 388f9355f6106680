"""The exception for errors that a user can mend: a missing file, a wrong key, a device that is not there.

The command line prints it without a traceback and exits with 2. Any other exception is a bug and keeps its traceback.
"""


class UserError(Exception):
    """An error that the user can mend. The text says what was found, what was expected and what to do."""
