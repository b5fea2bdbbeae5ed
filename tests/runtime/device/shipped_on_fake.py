"""Up to the launch without a GPU: run by ``test_shipped_kernels.py`` on the fake driver, in a process of its own.

``UDX_IMAGES`` is the folder with the kernels, ``UDX_FAKE_CAPABILITY`` the compute capability × 10 of the fake GPU. The
fake driver reads number and sizes of a kernel's parameters, and its block, from the PTX or cubin, and refuses others.
"""

import os
from pathlib import Path

import pytest

from tests.ptx.cases import Case
from tests.ptx.shipped import CASES
from tests.runtime.device.fake_cuda import Fake, require_clean
from tests.runtime.device.launched import context_of, launch_case
from tests.runtime.device.shipped_images import read_images
from udx.operators import TensorType
from udx.runtime.device.driver import open_driver

IMAGES = read_images(Path(os.environ["UDX_IMAGES"]))
ARCH = int(os.environ["UDX_FAKE_CAPABILITY"])
COMPILED = [case for case in CASES if IMAGES.running_on(case.launch, ARCH)]


@pytest.mark.parametrize("captured", [False, True], ids=["stream", "graph"])
@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.name)
def test_every_file_is_launched_as_its_operator_says(case: Case, captured: bool):
    fake, driver = Fake(), open_driver()
    files = IMAGES.running_on(case.launch, ARCH)
    assert {file.name.rpartition(".")[2] for _, file, _ in files} == {"ptx", "cubin"}
    shapes = {name: array.shape for name, array in case.inputs.items()}
    types = [TensorType(case.dtypes.get(name, array.dtype.name), array.shape) for name, array in case.inputs.items()]
    launch = case.operator.launch(types)
    for kernel, file, image in files:
        fake.report()
        with context_of(driver):
            done = launch_case(driver, kernel, file, image, case, captured=captured)
        report = fake.report()
        require_clean(report)
        wanted = {
            "kernel": kernel.entry,
            "grid": list(launch.grid_for(shapes)),
            "block": [32 * launch.num_warps, 1, 1],
            "shared": kernel.shared_bytes,
            "arguments": [
                *(done.addresses[tensor.name] for tensor in launch.inputs),
                *launch.scalars_for(shapes),
                *(done.addresses[output.aliases or output.name] for output in launch.outputs),
            ],
        }
        assert report["launches"] == [wanted] * (2 if captured else 1), file.name
        assert len(done.outputs) == (2 if captured else 1)
        for output in launch.outputs:
            # The fake computes nothing: an output is what was uploaded, garbage or the memory that it is.
            back = done.outputs[-1][output.name]
            given = case.inputs[output.aliases].tobytes() if output.aliases else b"\xa5" * back.nbytes
            assert back.tobytes() == given
