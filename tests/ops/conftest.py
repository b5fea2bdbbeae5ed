"""The homes of the operators; every test that takes one runs in all of them."""

from collections.abc import Iterator

import pytest

from tests.ops import homes


@pytest.fixture(scope="session")
def interpreter() -> Iterator[homes.Home]:
    """Triton's interpreter, in its own process."""
    pytest.importorskip("triton")
    home = homes.interpreter()
    yield home
    home.pool.shutdown()


@pytest.fixture(scope="session", params=["reference", "interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def home(request: pytest.FixtureRequest) -> homes.Home:
    """Reference, interpreter and GPU in turn."""
    if request.param == "interpreter":
        return request.getfixturevalue("interpreter")
    return homes.Home(request.param)


@pytest.fixture(scope="session", params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def kernel_home(request: pytest.FixtureRequest) -> homes.Home:
    """Interpreter and GPU in turn: where kernels run."""
    if request.param == "interpreter":
        return request.getfixturevalue("interpreter")
    return homes.Home(request.param)
