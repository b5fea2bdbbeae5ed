"""Whatever a library does when it is asked, there is an answer, and this process lives on."""

import sys
from pathlib import Path

import pytest

from udx.doctor import ask as module
from udx.doctor.ask import Probed, ask, ask_all, is_installed, probe_command
from udx.doctor.probes import MARK


def answer(code: str, limit_s: float = 60.0) -> Probed:
    return ask([sys.executable, "-c", code], limit_s)


def test_facts_are_read_whatever_is_printed_around_them():
    code = f"print('hello'); print({MARK!r} + '{{\"version\": \"1.2\"}}'); print('bye')"
    assert answer(code) == Probed({"version": "1.2"})


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import os; os.abort()", "it crashes (SIGABRT) when it is loaded"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it crashes (SIGSEGV) when it is loaded"),
        ("raise ImportError('libnvinfer.so.10: cannot open')", "ImportError: libnvinfer.so.10: cannot open"),
        ("import sys; sys.exit(3)", "it ends with status 3 when it is loaded"),
        ("import time; time.sleep(600)", "it gives no answer within 0.5 s"),
    ],
)
def test_a_broken_library_is_an_answer(code, failure):
    found = answer(code, limit_s=0.5 if "sleep" in code else 60.0)
    assert found == Probed(failure=failure)
    assert found.installed


def test_a_program_that_is_not_there_is_an_answer():
    assert "cannot be asked" in ask(["/no/such/python"], 1.0).failure


def test_modules_are_found_without_being_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "broken_module", None)
    assert is_installed("this")  # a module that would print
    assert "this" not in sys.modules
    assert not is_installed("no_such_module")
    assert not is_installed("broken_module")


def test_what_is_not_installed_is_not_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "is_installed", lambda name: name == "triton")
    monkeypatch.setattr(module, "ask", lambda command, limit_s: asked.append(command[-1]) or Probed({"version": "3"}))
    ticks = []
    found = ask_all(lambda done, total: ticks.append((done, total)))
    assert sorted(asked) == ["driver", "triton"]
    assert found["tensorrt"] == Probed(failure="it is not installed", installed=False)
    assert found["triton"] == Probed({"version": "3"})
    assert ticks[-1] == (7, 7)


def test_a_library_whose_import_dies_takes_only_its_probe_with_it(tmp_path: Path, monkeypatch):
    """A package called triton that aborts the process that imports it."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = module.ask(probe_command("triton"), 60.0)
    assert found == Probed(failure="it crashes (SIGABRT) when it is loaded")


@pytest.mark.parametrize("probe", ["driver", "onnxruntime"])
def test_the_probes_run_no_file_of_the_current_folder(tmp_path: Path, monkeypatch, probe):
    for name in ("udx", "numpy", "onnxruntime", "ctypes", "json", "dataclasses"):
        (tmp_path / f"{name}.py").write_text(f"open('ran', 'a').write({name!r})")
    monkeypatch.chdir(tmp_path)
    found = ask(probe_command(probe), 60.0)
    assert found.failure is None and found.facts
    assert not (tmp_path / "ran").exists()
