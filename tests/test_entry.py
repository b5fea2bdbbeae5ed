"""However it is started, a command ends with what it printed or one sentence, and runs nothing but udx."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
