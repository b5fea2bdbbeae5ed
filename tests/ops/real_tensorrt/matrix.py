"""Test the plugins with other versions of TensorRT and NumPy than the installed ones: ``make test-tensorrt``.

``matrix.py FOLDER [pytest arguments]`` puts each combination into a folder of its own, with pip, and runs
``tests/ops/test_real_tensorrt.py`` on all of them. What is there already is used again.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Combination:
    """Versions that are tested together; the library is the TensorRT-RTX of the same line."""

    tensorrt: str
    library: str
    numpy: str

    @property
    def name(self) -> str:
        """Name of the folder."""
        return f"tensorrt-{self.tensorrt}-numpy-{self.numpy}"

    def install(self, parent: Path) -> Path:
        """Install the three packages, without what they need, unless they are there."""
        folder = parent / self.name
        if not (folder / "complete").exists():
            packages = (
                f"tensorrt-cu13-bindings=={self.tensorrt}",
                f"tensorrt-rtx-cu13-libs=={self.library}",
                f"numpy=={self.numpy}",
            )
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
            subprocess.run([*pip, *packages], check=True)
            (folder / "complete").touch()
        return folder


NEW_NUMPY = "2.5.2" if sys.version_info >= (3, 12) else "2.4.6"
OLD_LINE, NEW_LINE = "1.4.0.76", "1.7.1.116"
COMBINATIONS = (
    Combination("10.15.1.29", OLD_LINE, "1.26.4"),
    Combination("10.15.1.29", OLD_LINE, NEW_NUMPY),
    Combination("11.1.0.106", NEW_LINE, NEW_NUMPY),
    Combination("11.4.0.106", NEW_LINE, NEW_NUMPY),
)


def main() -> None:
    """Install every combination and run the tests on it."""
    parent = Path(sys.argv[1]).resolve()
    folders = [combination.install(parent) for combination in COMBINATIONS]
    environment = os.environ | {"UDX_TENSORRT": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-m", "pytest", "tests/ops/test_real_tensorrt.py", *sys.argv[2:]]
    sys.exit(subprocess.run(command, cwd=ROOT, env=environment).returncode)


if __name__ == "__main__":
    main()
