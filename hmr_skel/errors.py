"""The one exception that is meant for a person.

Everything that a user can cause (a missing file, a wrong key) is raised as a `UserError`, whose text says what was
found, what was expected and what to do. The command line prints it and exits with 2. All else is a bug.
"""


class UserError(Exception):
    """Something that the user can mend. The text is the whole message."""
