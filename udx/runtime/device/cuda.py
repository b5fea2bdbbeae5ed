"""The GPU that plans run on."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from udx.runtime.device.driver import Driver
from udx.runtime.device.errors import explained


class Device:
    """The first GPU and its primary context, which all runners of a process share; released by ``close``."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        with explained("the GPU cannot be used"):
            self._context = driver.retain_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current for a block, and what was current before it again."""
        with explained("the GPU's context cannot be used"):
            self.driver.push_context(self._context)
        try:
            yield
        finally:
            with suppress(Exception):  # of a context that is lost
                self.driver.pop_context()

    def close(self) -> None:
        """Give the context back; it lives on while others hold it."""
        with suppress(Exception):  # of a context that is lost
            self.driver.release_context(self._context)
