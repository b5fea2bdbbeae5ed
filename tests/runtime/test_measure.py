"""A protocol must be able to find something out."""

import pytest

from udx.errors import UdxError
from udx.runtime.measure import Protocol


@pytest.mark.parametrize("change", [{"blocks": 1}, {"frames": 3}, {"frames": 0}, {"warmup": 0}, {"margin": 0.0}])
def test_a_protocol_that_measures_nothing_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(UdxError):
        Protocol(**change)  # type: ignore[arg-type]
