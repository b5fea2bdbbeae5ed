"""The one exception that a user is meant to see."""

from typing import Final

MAX_SENTENCE: Final = 2000


class UdxError(Exception):
    """A mistake in what the user gave: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and ends with exit status 2. Broken invariants
    of udx itself are ``assert``s and other exceptions: those are bugs, and keep their traceback.
    """

    def __str__(self) -> str:
        # Names in files from strangers may hold line breaks and what terminals obey: those are shown, not sent.
        said = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in super().__str__())
        return said if len(said) <= MAX_SENTENCE else said[:MAX_SENTENCE] + "…"


def first_line(error: Exception) -> str:
    """What an exception of another library says, shortened: the name of its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
