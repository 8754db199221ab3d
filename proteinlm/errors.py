"""The one kind of error that a user's input can cause."""


class InputError(Exception):
    """A knob, file or record that cannot be used: one line that names it and says what would be right.

    Entry points print the line without a traceback and exit with code 2.
    """
