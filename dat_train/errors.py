"""Errors that the user can fix."""


class UserError(ValueError):
    """A mistake or circumstance the user can mend; one line names the thing, the value and the way out.

    Commands print the message alone, without a traceback, and exit with code 2.
    """
