"""The one exception that is meant for a person: a missing file, a wrong key, a device that is not there.

The command line prints it and exits with 2, without a traceback. Everything else is a bug and keeps its traceback.
"""


class UserError(Exception):
    """Something that the user can mend. The text says what was found, what was expected and what to do."""
