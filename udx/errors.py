"""The one exception that a user is meant to see."""


class UdxError(Exception):
    """A mistake in what the user gave: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and ends with exit status 2. Broken invariants
    of udx itself are ``assert``s and other exceptions: those are bugs, and keep their traceback.
    """
