"""The cases that every kernel of a plan is tried on."""

from tests.ptx.cases import Case, maxima, pooling, voxelization, zeros

CASES: tuple[Case, ...] = (
    pooling("float32", "float32"),
    pooling("float32", "float32", batch=1, channels=80, cells=20),
    pooling("float32", "float32", batch=1, crowded=3300),
    pooling("float16", "float16"),
    pooling("float16", "float16", batch=1, channels=80, cells=20),
    pooling("bfloat16", "bfloat16"),
    pooling("float16", "float32"),
    *voxelization().values(),
    *voxelization(batch=1, capacity=700).values(),
    *(maxima(dtype) for dtype in ("float32", "float16", "bfloat16")),
    maxima("float32", points=37, channels=64),
    maxima("float16", points=37, channels=64),
    *(zeros(dtype) for dtype in ("float32", "float16", "bfloat16")),
)

GARBAGE: tuple[Case, ...] = (
    pooling("float32", "float32", garbage=True),
    pooling("float16", "float16", garbage=True),
    *voxelization(garbage=True).values(),
    maxima("float32", garbage=True),
    maxima("float16", garbage=True),
)
"""Every integer of the inputs is anything. What a kernel makes of it is its own affair; memory is not."""
