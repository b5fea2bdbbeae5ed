"""Annotations of arrays are checked while tests run: a wrong shape, dtype or type raises, and no module is left out."""

import importlib

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from tests.typechecks import PACKAGE, checked_modules, module_of
from udx.geometry import BevGrid
from udx.models.fusion import GatedFusion
from udx.train.losses import crucial_points, gaussian_mask


@pytest.mark.parametrize(
    "boxes", [torch.zeros(3, 7), torch.zeros(9), torch.zeros(3, 9, dtype=torch.int64), np.zeros((3, 9), np.float32)]
)
def test_a_wrong_shape_or_dtype_raises(boxes):
    assert crucial_points(torch.ones(3, 9)).shape == (3, 9, 2)
    with pytest.raises(TypeCheckError):
        crucial_points(boxes)


def test_dimensions_of_one_name_must_be_equal():
    with pytest.raises(TypeCheckError, match=r"udx\.models\.fusion"):
        GatedFusion(4)(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 6))


def test_what_is_no_tensor_is_checked_too():
    boxes, grid = [torch.zeros(0, 9)], BevGrid(-8, 8, -8, 8, 1)
    assert gaussian_mask(boxes, grid).shape == (1, 1, 16, 16)
    with pytest.raises(TypeCheckError):
        gaussian_mask(boxes, (16, 16))


def test_every_module_that_annotates_arrays_is_checked():
    """They are told by their text here, and by what imported them."""
    annotating = {module_of(path) for path in PACKAGE.rglob("*.py") if "from jaxtyping import" in path.read_text()}
    assert {"udx.models.taps", "udx.train.losses", "udx.train.objectives.base"} <= annotating
    assert annotating == {*checked_modules()}
    for name in annotating:
        spec = importlib.import_module(name).__spec__
        assert type(spec.loader).__name__ == "_JaxtypingLoader", f"{name} was imported before the checks were there"
