"""The one kind of error that scripts show as a line."""


class UserError(Exception):
    """Something the user can put right; the message names the file or flag and the remedy."""
