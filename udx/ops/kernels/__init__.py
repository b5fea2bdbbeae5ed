"""The BEV operators as Triton kernels, one module an operator; importing one of them needs ``triton``.

Every kernel is one launch that stands for itself, so that it can also be compiled ahead of time and embedded in an
engine that passes nothing but pointers and integers: its arguments are input pointers, integer scalars, output
pointers, and then compile-time constants. No kernel needs a workspace or memory that somebody cleared: where
atomics must start from zeros, an earlier kernel of the chain writes them, and the later one takes that tensor both
as its last input and as its output (the same memory).

Coordinates are FP32 whatever the features are. Where bits decide (a point's cell, integer sums), no product is
followed by a sum, or ``enable_fp_fusion`` is off, so that no compiler contracts the two into one rounding;
divisions are rounded to nearest (``div_rn``), never approximated.

The interpreter (``TRITON_INTERPRET=1``) runs the kernels on CPU tensors, and the tests hold them to the torch
references and to NumPy; what ran where is in ``docs/hardware-status.md``.
"""
