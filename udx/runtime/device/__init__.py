"""Plans on a GPU: one context, memory that is taken once, and the whole frame in one CUDA graph.

The driver is called through cuda-bindings, or through pycuda where only that is installed (``driver.py``); engines run
in TensorRT or TensorRT-RTX. All work in the device's primary context, which is made current for the time of a call
and no longer: torch and ONNX Runtime, which use it too, find what they left. None of the libraries is imported before
a plan is activated.

The tests run whole plans on a stand-in that keeps the order, lifetime and addresses of a GPU; what ran where is in
``docs/hardware-status.md``.
"""
