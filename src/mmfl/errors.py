"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """Bad input. The message is one line: file or key, found, expected, remedy.

    The command line prints it without a traceback and ends with exit status 2.
    """
