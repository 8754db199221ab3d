"""The error that a user's input can cause, and the errors of other libraries in one line."""


class InputError(Exception):
    """A knob, file or record that cannot be used: one line that names it and says what would be right.

    Entry points print the line without a traceback and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
