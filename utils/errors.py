"""The kind of error that scripts show as one line."""


class UserError(Exception):
    """An error that the user can correct; the message names the file or flag and the remedy."""
