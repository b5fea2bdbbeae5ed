"""The one exception that a user is meant to see."""

import unicodedata
from typing import Final

MAX_SENTENCE: Final = 2000


class UdxError(Exception):
    """A mistake in what the user gave: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and ends with exit status 2. Broken invariants
    of udx itself are ``assert``s and other exceptions: those are bugs, and keep their traceback.
    """

    def __str__(self) -> str:
        said = escaped(super().__str__())
        return said if len(said) <= MAX_SENTENCE else said[:MAX_SENTENCE] + "…"


def escaped(text: str, keep: str = "") -> str:
    """Replace control characters by their escapes: names in files from strangers may hold what terminals obey.

    Args:
        text: what is to be printed.
        keep: characters that stay, such as the line break.
    """
    if text.isprintable():
        return text
    return "".join(letter if _is_harmless(letter) or letter in keep else ascii(letter)[1:-1] for letter in text)


def _is_harmless(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"  # spaces of other widths


def first_line(error: Exception) -> str:
    """What an exception of another library says, shortened: the name of its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
