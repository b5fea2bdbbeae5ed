"""Packaging of udx: the base install is the runtime; training and back ends are extras."""

import re
from pathlib import Path

from setuptools import find_packages, setup

RUNTIME = [
    "numpy>=1.26,<3",
    "onnx>=1.20,<2",
    "Pillow>=10,<14",
    "click>=8.1,<9",
    "rich>=13,<16",
]
ONNXRUNTIME = "onnxruntime>=1.24,<2"
# torch for CUDA brings and pins its own; elsewhere the tests run the kernels in its interpreter.
TRITON = "triton>=3.6,<4; platform_system == 'Linux'"
TRAIN = [
    "torch>=2.11,<2.14",
    "accelerate>=1.10,<2",
    "transformers>=5,<6",
    "safetensors>=0.5,<1",
    "tensorboard>=2.18,<3",
    # It pins NumPy below 2, which has no wheel for Python 3.13: pip would compile it for a long time.
    "nuscenes-devkit>=1.2,<2; python_version < '3.13'",
    "onnxscript>=0.5,<1",
    "jaxtyping>=0.3,<0.4",
    ONNXRUNTIME,
    TRITON,
]
# Calls of the CUDA driver; wheels that need no compiler, and no driver to be installed.
CUDA_BINDINGS = "cuda-bindings>=13,<14; platform_system == 'Linux' or platform_system == 'Windows'"
# Wheels for x86-64 alone. They build engines on any such machine; running them needs a GPU and its driver.
ON_X86 = "platform_machine == 'x86_64' or platform_machine == 'AMD64'"
RTX = [
    f"tensorrt-rtx-cu13-libs>=1.7,<2; {ON_X86}",
    f"tensorrt-rtx-cu13-bindings>=1.7,<2; {ON_X86}",
]
TENSORRT = [
    "tensorrt>=10.15,<12; platform_system == 'Linux' or platform_system == 'Windows'",
]
# Programs of others that read exports: tests/export/test_clients.py walks those that are installed.
CLIENTS = [
    "onnxsim>=0.4,<1",
    "onnxslim>=0.1.90,<1",
    "onnxoptimizer>=0.4,<1",
    "onnx-graphsurgeon>=0.6,<1",
    "polygraphy>=0.53,<1",
    "openvino>=2026.4,<2027",
    "tract>=0.23,<1",
]
DEV = [
    "pytest>=9,<10",
    "hypothesis>=6.100,<7",
    "beartype>=0.21,<0.24",
    "ruff>=0.12,<0.18",
    "mypy>=1.15,<3",
    TRITON,
    # The Python of tensorrt.plugin: the tests register plugins with it; without TensorRT's libraries it does no more.
    "tensorrt-cu13-bindings>=11,<12; platform_system == 'Linux'",
    # The tests run it on a fake CUDA driver.
    CUDA_BINDINGS,
]

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
# Links into the repository lead nowhere from a package index: their words stay.
DESCRIPTION = re.sub(r"!?\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", README)

setup(
    name="udx",
    version="0.1.0",
    description="From a nuScenes BEV 3D detector, through UniDistill, to a measured deployment engine.",
    long_description=DESCRIPTION,
    long_description_content_type="text/markdown",
    author="udx developers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["3D object detection", "BEV", "knowledge distillation", "nuScenes", "ONNX", "TensorRT"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["udx", "udx.*"]),
    package_data={"udx": ["py.typed"]},
    install_requires=RUNTIME,
    extras_require={
        "train": TRAIN,
        "cpu": [ONNXRUNTIME],
        "gpu": [ONNXRUNTIME.replace("onnxruntime", "onnxruntime-gpu"), CUDA_BINDINGS],
        # In place of cuda-bindings, without CUDA graphs: it has no wheels, and is compiled with a CUDA toolkit.
        "pycuda": ["pycuda>=2024.1"],
        "tensorrt": TENSORRT,
        "rtx": RTX,
        "dev": DEV,
        "clients": CLIENTS,
        "bench": ["spconv>=2.3.8,<3"],
    },
    entry_points={"console_scripts": ["udx = udx.cli:run"]},
)
