"""A library that crashes on a model ends a process of its own, and the model is refused in one sentence."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.build.detectors import voxelizing_detector, write_detector
from tests.runtime.test_damaged_onnx import with_right_hash
from udx.errors import UdxError
from udx.runtime import isolation
from udx.runtime.engine import open_engine
from udx.runtime.isolation import Suspect, check_in_isolation
from udx.runtime.onnx_file import read_onnx

ROOT = Path(__file__).resolve().parents[2]


def with_a_split_that_aborts(model: onnx.ModelProto) -> onnx.ModelProto:
    """One integer changed: ONNX's shape inference aborts the process that it runs in."""
    model.graph.node.append(helper.make_node("Split", ["points"], ["one", "other"], "split", num_outputs=1))
    return model


def suspect(seed: int = 0) -> Suspect:
    """A good segment, another one for every seed."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2 + seed]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return Suspect(content=model.SerializeToString(), source=f"segment {seed}")


def test_a_model_that_aborts_the_library_is_refused(tmp_path: Path) -> None:
    model = with_a_split_that_aborts(voxelizing_detector())
    with_right_hash(model)
    path = tmp_path / "split.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UdxError, match=r"split\.onnx makes the ONNX libraries crash \(SIGABRT\); do not trust it"):
        read_onnx(path)
    read_onnx(write_detector(tmp_path / "good.onnx"))  # the next one is checked by another worker


def test_the_library_does_abort() -> None:
    """If this fails, ONNX was repaired, and the test above needs another model."""
    model = with_a_split_that_aborts(voxelizing_detector())
    code = "import sys, onnx; onnx.shape_inference.infer_shapes(sys.stdin.buffer.read())"
    done = subprocess.run([sys.executable, "-c", code], input=model.SerializeToString(), capture_output=True)
    assert done.returncode < 0


def test_a_model_that_takes_too_long_is_refused() -> None:
    with pytest.raises(UdxError, match=r"segment 1 keeps the ONNX libraries busy for over 1e-05 s; do not trust it"):
        check_in_isolation(suspect(1), "run", time_limit_s=1e-5)
    check_in_isolation(suspect(1), "run")


def test_what_passed_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    check_in_isolation(suspect(2), "run")
    monkeypatch.setattr(isolation, "_worker", lambda: pytest.fail("it was checked again"))
    check_in_isolation(suspect(2), "run")
    monkeypatch.setattr(isolation, "_passed", set())
    check_in_isolation(suspect(2), "run")  # from the cache folder
    with pytest.raises(pytest.fail.Exception):
        check_in_isolation(suspect(2), "graph")
    with pytest.raises(pytest.fail.Exception):
        check_in_isolation(suspect(3), "run")


def test_a_damaged_memory_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDX_CACHE", str(tmp_path))
    check_in_isolation(suspect(4), "run")
    (kept,) = (tmp_path / "checked").iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])
    monkeypatch.setattr(isolation, "_passed", set())
    monkeypatch.setattr(isolation, "_worker", lambda: pytest.fail("it was checked again"))
    with pytest.raises(pytest.fail.Exception):
        check_in_isolation(suspect(4), "run")


def test_a_cache_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("UDX_CACHE", str(tmp_path / "file"))
    check_in_isolation(suspect(5), "run")


def test_a_refusal_is_not_remembered() -> None:
    broken = Suspect(content=suspect(6).content[:-4], source="half")
    for _ in range(2):
        with pytest.raises(UdxError, match="half"):
            check_in_isolation(broken, "run")


def test_a_dead_worker_is_replaced() -> None:
    check_in_isolation(suspect(7), "run")
    process = isolation._worker()._process
    assert process is not None
    process.kill()
    process.wait()
    check_in_isolation(suspect(8), "run")


def test_without_a_process_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_workers", {})
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UdxError, match="cannot start /nowhere/python to check a model"):
        check_in_isolation(suspect(9), "run")


def test_threads_and_forked_processes_may_check(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = []

    def check(seed: int) -> None:
        try:
            check_in_isolation(suspect(seed), "graph")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(20, 26)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    mine = isolation._worker()
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    assert isolation._worker() is not mine


def test_no_python_file_of_the_current_folder_is_run(tmp_path: Path) -> None:
    write_detector(tmp_path / "student.onnx")
    for name in ("onnx", "onnxruntime", "numpy", "udx", "json", "resource"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('stranger')")
    code = "from pathlib import Path; from udx.runtime.onnx_file import read_onnx; read_onnx(Path('student.onnx'))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "UDX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are seen in /proc")
def test_the_worker_ends_with_its_process(tmp_path: Path) -> None:
    write_detector(tmp_path / "student.onnx")
    code = f"""
import time
from pathlib import Path
from udx.runtime import isolation
from udx.runtime.onnx_file import read_onnx
read_onnx(Path({str(tmp_path / "student.onnx")!r}))
print(isolation._worker()._process.pid, flush=True)
time.sleep(600)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "UDX_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert Path(f"/proc/{worker}").exists()
        parent.kill()
    deadline = time.monotonic() + 60
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_file_that_was_replaced_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "student.onnx")
    runner = open_engine(path)
    write_detector(path, seed=1)
    with pytest.raises(UdxError, match="has been replaced since it was opened; open it again"):
        runner.activate()
