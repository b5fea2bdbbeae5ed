import numpy as np
import pytest

from udx.geometry.arrays import require_finite, require_shape


def test_shape_tells_what_was_wanted_and_what_came():
    require_shape("boxes", np.zeros((3, 9)), (None, 9))
    with pytest.raises(ValueError, match=r"boxes must have shape \('any', 9\), not \(3, 8\)"):
        require_shape("boxes", np.zeros((3, 8)), (None, 9))
    with pytest.raises(ValueError, match=r"not \(9,\)"):
        require_shape("boxes", np.zeros(9), (None, 9))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_finite(value):
    require_finite("pose", np.zeros(3))
    with pytest.raises(ValueError, match="pose must be finite"):
        require_finite("pose", np.array([0.0, value]))
