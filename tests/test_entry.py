"""However it is started, a command ends with what it printed or one sentence, and runs nothing but udx."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from udx import entry
from udx.errors import MissingHardwareError, UdxError

ROOT = Path(__file__).resolve().parents[1]


def run_script(code: str, *arguments: str | bytes, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program that lies elsewhere, as a console script does: Python's path begins with the script's folder."""
    script = cwd.parent / "bin" / "program"
    script.parent.mkdir(exist_ok=True)
    script.write_text(code)
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
    )


UDX = "from udx.cli import run\nrun()\n"
POOL = """
import click
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from udx.entry import run_command
from udx.workers import end_with_parent

@click.command()
def command():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        click.echo(pool.submit(abs, -3).result())

if __name__ == "__main__":
    run_command(command)
"""


@pytest.fixture
def hostile(tmp_path):
    """A folder with a Python file for every module that udx or Python itself might import."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    names = {*sys.stdlib_module_names, "udx", "numpy", "torch", "onnx", "onnxruntime", "PIL", "rich", "click"}
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})")
    return folder


def test_no_file_of_the_current_folder_runs(hostile, tmp_path):
    done = run_script(UDX, "--help", cwd=hostile)
    assert done.returncode == 0, done.stderr.decode()
    assert not (tmp_path / "ran").exists()


def test_no_file_of_the_current_folder_runs_in_a_worker(hostile, tmp_path):
    done = run_script(POOL, cwd=hostile)
    assert (done.returncode, done.stdout) == (0, b"3\n"), done.stderr.decode()
    assert not (tmp_path / "ran").exists()


def test_the_module_started_by_name_takes_nothing_but_itself_from_the_current_folder(hostile, tmp_path):
    (hostile / "udx.py").unlink()
    for shadowed in ("click", "numpy", "rich"):
        assert (hostile / f"{shadowed}.py").exists()
    for name in sys.stdlib_module_names:  # what Python itself imports before udx is begun is Python's affair
        (hostile / f"{name}.py").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "udx", "--help"],
        cwd=hostile,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_name_that_the_terminal_has_no_letters_for_is_printed_as_escapes(tmp_path, encoding):
    root, work = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xe5\xa4\xa7")), tmp_path / "work"
    (root / "v1.0-mini").mkdir(parents=True)
    work.mkdir()
    checked = run_script(UDX, "data", "check", str(root), "--no-files", cwd=work, PYTHONIOENCODING=encoding)
    assert (checked.returncode, checked.stderr) == (2, b"")
    assert b"caf\\udce9" in checked.stdout and b"problems" in checked.stdout
    refused = run_script(UDX, "data", "check", str(root / "none"), cwd=work, PYTHONIOENCODING=encoding)
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"udx: ") and refused.stderr.count(b"\n") == 1


FULL = """
import click, sys
from udx.entry import run_command

@click.command()
def command():
    with open("/dev/full", "w") as file:
        file.write("x")

run_command(command)
"""


def test_a_full_disk_names_no_file_that_it_does_not_know(tmp_path):
    (tmp_path / "work").mkdir()
    done = run_script(FULL, cwd=tmp_path / "work")
    assert done.returncode == 2
    assert done.stderr == b"udx: No space left on device; see to it and run the command again\n"


def end_with(capsys, error: BaseException) -> tuple[int, str]:
    @click.command()
    def command() -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["udx"])
        with pytest.raises(SystemExit) as end:
            entry.run_command(command)
    return int(end.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UdxError("no such file; name another"), 2, "udx: no such file; name another\n"),
        (MissingHardwareError("no GPU is here; go to one"), 3, "udx: no GPU is here; go to one\n"),
        (KeyboardInterrupt(), 130, "udx: interrupted"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 2, "udx: x.json: No such file or directory"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "pip install 'udx[train]' brings it"),
        (ModuleNotFoundError("No module", name="nuscenes.eval"), 2, "udx: nuscenes is not installed"),
        (ModuleNotFoundError("No module", name="onnxruntime"), 2, "pip install 'udx[cpu]' brings it"),
        (ModuleNotFoundError("No module", name="tensorrt"), 2, "pip install 'udx[tensorrt]' brings it"),
    ],
)
def test_an_error_is_one_sentence_and_a_status(capsys, error, status, said):
    found, shown = end_with(capsys, error)
    assert found == status
    shown = shown.lstrip("\n")  # click ends the line that ^C stands on
    assert shown.startswith("udx: ") and said in shown and shown.count("\n") == 1


def test_a_module_that_no_extra_brings_is_a_bug():
    @click.command()
    def command() -> None:
        raise ModuleNotFoundError("No module named 'udx.gone'", name="udx.gone")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ModuleNotFoundError):
        patch.setattr("sys.argv", ["udx"])
        entry.run_command(command)


def test_every_extra_is_declared():
    from importlib import metadata

    assert set(entry.EXTRAS.values()) <= set(metadata.metadata("udx").get_all("Provides-Extra"))
