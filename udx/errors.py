"""The exceptions that a user is meant to see."""

import difflib
import unicodedata
from collections.abc import Iterable
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


class MissingHardwareError(UdxError):
    """This machine has no GPU or no driver for what was asked; the command line ends with exit status 3."""


class Interrupted(KeyboardInterrupt):
    """A signal that asked a long step to end; what it had to save is saved."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def first_line(error: Exception) -> str:
    """What an exception of another library says, shortened: the name of its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UdxError:
    """The error for a name that is not one of ``known``, with the most similar ones that are.

    Args:
        kind: what it is a name of, as "recipe".
        given: the name.
        known: every name that there is.
    """
    names = list(known)
    return UdxError(f"there is no {kind} {given!r}{did_you_mean(given, names)}; choose one of {', '.join(names)}")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Names that are similar, in brackets, to follow the wrong one; nothing where there is none."""
    names = list(known)
    longer = [name for name in names if given and name.startswith(given)]
    similar = longer[:2] or difflib.get_close_matches(given, names, n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(similar)}?)" if similar else ""
