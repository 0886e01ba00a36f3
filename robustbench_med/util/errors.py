"""The one exception a user is meant to read."""


class UserError(Exception):
    """Something the user gave (flag, config, file, data) cannot be used.

    The message is one line that says what is wrong, where, and how to mend it. The command line
    prints it without a traceback and exits with code 2. Anything else that is raised is a bug.
    """
