"""The kind of error that scripts show as one line."""


class UserError(Exception):
    """An error that the user can correct; the message names the file or flag and the remedy."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, of Python, PyTorch or the loader of its libraries, reports too little memory."""
    words = ("out of memory", "allocate memory", "bad_alloc", "failed to map segment")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
