"""What is read of a machine without loading anything."""

import sys
from pathlib import Path

import pytest

from udx.doctor.machine import _torch_cuda, this_machine


def test_this_machine_is_described():
    found = this_machine()
    assert found.cores >= 1
    assert found.versions.keys() >= {"udx", "numpy"}


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("cuda: Optional[str] = '13.0'\n", "13.0"),
        ("cuda = '12.8'\n", "12.8"),
        ("cuda: Optional[str] = None\n", None),
        ("", None),
    ],
)
def test_the_cuda_of_torch_is_read_from_its_files(tmp_path: Path, monkeypatch, text, cuda):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.13.0'\n" + text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert _torch_cuda() == cuda


def test_without_torch_there_is_no_cuda_of_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert _torch_cuda() is None
