"""Run exported detectors, measure them and draw what they see. No torch: a deployment carries numpy and an engine."""

from udx.runtime.engine import BACKENDS as BACKENDS
from udx.runtime.engine import open_engine as open_engine
from udx.runtime.runner import Runner as Runner
from udx.tensors import TensorSpec as TensorSpec
