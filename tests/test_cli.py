"""The command line: its surface is frozen, a user's error is one sentence and exit status 2, and the road is whole."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from udx import cli
from udx.data.nuscenes import open_dataroot

VERBS = {
    "data synth": {"--scenes", "--samples", "--seed", "--sweeps", "--width", "--device"},
    "data check": {"--version", "--files", "--json"},
    "train": {
        "--recipe", "--data", "--version", "--train-split", "--val-split", "--student", "--teacher", "--method",
        "--sweep-cache", "--teacher-cache", "--init", "--out", "--epochs", "--seed", "--resume", "--set", "--dry-run",
        "--list-recipes", "--list-methods", "--help-config", "--config", "--json",
    },
    "runs": {"--json"},
    "replay": {"--json"},
    "eval": {"--run", "--engine", "--data", "--version", "--split", "--backend", "--json"},
    "export": {"--student", "--run", "--out", "--precision", "--dynamic", "--json", "--portable"},
    "rig": {"--engine", "--image-size", "--out"},
    "check": {"--json"},
    "calibrate": {
        "--data", "--version", "--split", "--method", "--precision", "--samples", "--judged", "--max-map-drop",
        "--like", "--learn", "--teacher", "--steps", "--plain", "--force", "--out", "--report", "--json",
    },
    "build": {
        "--backend", "--precision", "--segments", "--arch", "--level", "--tf32", "--workspace", "--cache", "--out",
        "--json",
    },
    "bench": {
        "--engine", "--run", "--against", "--positive", "--backend", "--data", "--version", "--split", "--accuracy",
        "--blocks", "--max-minutes", "--warmup", "--margin", "--clock", "--core", "--threads", "--json", "--html",
    },
    "predict": {
        "--engine", "--data", "--version", "--sample", "--list-samples", "--split", "--images", "--points", "--rig",
        "--backend", "--score", "--png", "--json",
    },
    "doctor": {"--require", "--json"},
}  # fmt: skip

TINY = (
    "train.workers=0",
    "train.batch_size=2",
    "detector.low_channels=8",
    "detector.camera.neck_channels=8",
    "detector.camera.context_channels=8",
    'detector.camera.settings={"layer_type":"basic","embedding_size":16,"hidden_sizes":[16,16,16,16],"depths":[1,1,1,1],'
    '"out_features":["stage2","stage3"]}',
    "detector.bev_encoder.channels=[8,16]",
    "detector.bev_encoder.convolutions=[0,0]",
    "detector.bev_encoder.out_channels=[8,8]",
    "detector.head.shared_channels=8",
    "detector.head.task_channels=8",
    "detector.max_boxes=50",
)


def udx(capsys, monkeypatch, *arguments) -> tuple[int, str, str]:
    """Run a command line in this process: exit status, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["udx", *map(str, arguments)])
    try:
        cli.run()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.mark.parametrize("verb", VERBS)
def test_the_options_of_a_verb_are_frozen(verb):
    command = cli.main
    for name in verb.split():
        command = command.commands[name]
    options = {option for item in command.params for option in item.opts if option.startswith("--")}
    assert options == VERBS[verb]


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from click.testing import CliRunner; from udx.cli import main; "
        "assert CliRunner().invoke(main, ['train', '--help']).exit_code == 0; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'nuscenes', 'numpy', 'transformers'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--data", "nowhere"), "the dataroot nowhere is not a folder"),
        (("train", "--recipe", "huge"), "no recipe 'huge'"),
        (("train", "--set", "train.epochs"), "has no '='"),
        (("train", "--set", "train.epoch=3"), "no field 'train.epoch'"),
        (("train", "--set", "train.epochs=many"), "expected int, not 'many'"),
        (("train", "--epochs", "0"), "at least 1"),
        (("train", "--set", "detector.spec.grid.cell=0.7"), "not a whole number of 0.7 m cells"),
        (("train", "--set", "train.precision=fp8"), "'fp8' is not one of"),
        (("train", "--student", "radar"), "'radar' is not one of"),
        (("replay", "nowhere"), "has no broken step to replay"),
        (("eval",), "needs either --run or --engine"),
        (("eval", "--run", "nowhere"), "there is no checkpoint"),
        (("eval", "--engine", "nowhere.onnx"), "cannot read engine nowhere.onnx"),
        (("bench", "--engine", "nowhere.onnx"), "cannot read engine nowhere.onnx"),
        (("bench",), "an engine with --engine, or a run with --run"),
        (("bench", "--run", "nowhere", "--no-accuracy"), "--accuracy is for an engine"),
        (("bench", "--engine", "nowhere.onnx", "--no-accuracy"), "none is named with --data; leave it out"),
        (("bench", "--engine", "nowhere.onnx", "--margin", "0.1"), "nothing is named with --against; leave it out"),
        (("bench", "--engine", "nowhere.onnx", "--backend", "onnx"), "no backend 'onnx' (did you mean onnxruntime"),
        (("train", "--recipe", "nanno"), "did you mean nano?"),
        (("train", "--method", "bevdistil"), "did you mean bevdistill"),
        (("train", "--set", "train.batchsize=3"), "did you mean train.batch_size"),
        (("train", "--teacher", "fusoin"), "--teacher fusoin is no run, it has no checkpoint.safetensors; name cam"),
        (("train", "--init", "nowhere"), "--init nowhere is no run"),
        (("train", "--teacher-cache", "kept"), "name a teacher with --teacher"),
        (("eval", "--run", "nowhere", "--backend", "tensorrt"), "--backend tensorrt is for --engine"),
        (("export",), "the sensors of a student with --student, or a run with --run"),
        (("predict",), "name the engine file to run with --engine"),
        (("predict", "--engine", "nowhere.onnx", "--score", "2"), "2.0 is not in the range"),
        (("predict", "--list-samples", "--score", "0.5"), "--score is not used by --list-samples"),
        (("calibrate", "nowhere.onnx", "--steps", "10"), "--learn names no run"),
        (("calibrate", "nowhere.onnx", "--plain", "--judged", "10"), "--judged is for the skip list, and --plain"),
        (("calibrate", "nowhere.onnx", "--like", "b.onnx", "--max-map-drop", "1"), "--max-map-drop is for a skip list"),
        (("bench", "--run", "nowhere"), "there is no checkpoint"),
        (("bench", "--run", "nowhere", "--clock", "cpu"), "--clock is for a comparison of engines"),
        (("check", "nowhere.onnx"), "cannot read engine nowhere.onnx"),
        (("calibrate", "nowhere.onnx"), "nowhere.onnx: No such file"),
        (("calibrate", "nowhere.onnx", "--teacher", "runs/teacher"), "name that run with --learn"),
        (("calibrate", "nowhere.onnx", "--precision", "int4"), "'int4' is not one of"),
        (("export", "--student", "cam", "--run", "nowhere"), "there is no checkpoint"),
        (("export", "--student", "cam", "--precision", "fp8"), "'fp8' is not one of"),
        (("export", "--student", "cam"), "no finished run of a cam detector"),
        (("data", "synth", "world", "--scenes", "1"), "scenes from 2"),
        (("data", "check", "nowhere"), "not a folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(capsys, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "train" and "--data" not in arguments:
        (tmp_path / "empty").mkdir()
        arguments = (*arguments, "--data", "empty")  # the mistake is found before the data is opened
    status, _, error = udx(capsys, monkeypatch, *arguments)
    assert status == 2
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "options",
    [("--method", "max"), ("--learn", "r"), ("--teacher", "r"), ("--steps", 9), ("--plain",), ("--judged", 9),
     ("--max-map-drop", 1)],
)  # fmt: skip
def test_options_that_fp16_does_not_use_are_refused(capsys, monkeypatch, options):
    status, _, error = udx(capsys, monkeypatch, "calibrate", "nowhere.onnx", "--precision", "fp16", *options)
    assert status == 2
    assert f"{options[0]} is for INT8 and FP8, and --precision fp16 makes no use of it" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate", "s.onnx", "--out", "s.onnx"),
        ("calibrate", "s.onnx", "--report", "s.html", "--json", "s.html"),
        ("calibrate", "s.onnx", "--like", "s.int8.onnx"),
        ("calibrate", "s.onnx", "--report", "link.onnx"),
        ("build", "s.onnx", "--segments", "onnxruntime", "--out", "hard.onnx"),
        ("check", "s.onnx", "--json", "./s.onnx"),
        ("bench", "--engine", "s.onnx", "--html", "s.onnx"),
        ("bench", "--engine", "other.onnx", "--against", "s.onnx", "--json", "link.onnx"),
        ("eval", "--engine", "s.onnx", "--json", "hard.onnx"),
        ("eval", "--run", "run", "--json", "run/config.json"),
        ("predict", "--engine", "s.onnx", "--data", "world", "--json", "world/v1.0-mini/scene.json"),
    ],
)
def test_no_output_overwrites_an_input(capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    for name in ("s.onnx", "other.onnx", "s.int8.onnx", "run/config.json", "world/v1.0-mini/scene.json"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    Path("link.onnx").symlink_to("s.onnx")
    Path("hard.onnx").hardlink_to("s.onnx")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    status, _, error = udx(capsys, monkeypatch, *arguments)
    assert status == 2 and "choose" in error and error.count("\n") == 1
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor", "--json", "file/doctor.json"),
        ("bench", "--engine", "nowhere.onnx", "--html", "folder"),
        ("bench", "--engine", "nowhere.onnx", "--json", "/proc/none/report.json"),
        ("train", "--out", "/proc/none/run"),
        ("train", "--out", "taken"),
    ],
)
def test_outputs_are_tried_before_any_work(capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("a file")
    Path("folder").mkdir()
    Path("taken").mkdir()
    Path("taken/config.json").write_text("{}")
    monkeypatch.setattr("udx.train.job.open_data", lambda *_: pytest.fail("the data was opened"))
    monkeypatch.setattr("udx.doctor.examine.examine", lambda *_: pytest.fail("the machine was examined"))
    monkeypatch.setattr("udx.commands.bench_engine", lambda *_, **__: pytest.fail("it was measured"))
    status, _, error = udx(capsys, monkeypatch, *arguments)
    assert status == 2 and "Traceback" not in error and error.count("\n") == 1
    assert "name a file in it" in error or "choose another" in error


def test_a_machine_without_a_gpu_has_an_exit_status_of_its_own(capsys, monkeypatch):
    from tests.doctor.test_verdicts import NO_DRIVER, everything, machine
    from udx.doctor.verdicts import diagnose

    monkeypatch.setattr("udx.doctor.examine.examine", lambda _: diagnose(machine(), everything(driver=NO_DRIVER)))
    status, _, error = udx(capsys, monkeypatch, "doctor", "--require", "tensorrt")
    assert status == 3
    assert error.startswith("udx: tensorrt does not build here: ")
    assert udx(capsys, monkeypatch, "doctor", "--require", "onnxruntime")[0] == 0


def test_names_that_options_take_are_those_that_there_are():
    from udx.runtime.engine import BACKENDS
    from udx.train.methods import METHODS
    from udx.train.recipes import RECIPES

    assert tuple(RECIPES) == cli.RECIPES
    assert tuple(METHODS) == cli.METHODS
    assert BACKENDS == cli.ENGINE_BACKENDS
    assert all(function.__doc__ for function in (*RECIPES.values(), *METHODS.values()))


def test_recipes_methods_and_fields_are_listed(capsys, monkeypatch):
    for option, names in (("--list-recipes", cli.RECIPES), ("--list-methods", cli.METHODS)):
        status, out, _ = udx(capsys, monkeypatch, "train", option)
        assert status == 0 and all(f"\n{name} " in out for name in names)
    status, out, _ = udx(capsys, monkeypatch, "train", "--help-config", "--student", "lidar", "--set", "train.seed=77")
    assert status == 0
    fields = {line.split("  ")[0]: line for line in out.splitlines()}
    assert fields["train.seed"].split() == ["train.seed", "int", "77"]
    assert fields["train.precision"].split()[1:8] == ["auto", "or", "no", "or", "fp16", "or", "bf16"]
    assert "detector.spec.lidar.max_points" in fields and "distillation.objectives.feature.weight" in fields


def test_udx_alone_shows_its_help_and_is_no_mistake(capsys, monkeypatch):
    for words in ((), ("data",)):
        status, out, _ = udx(capsys, monkeypatch, *words)
        assert status == 0 and "Commands:" in out


def test_json_on_standard_output_is_json_alone(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, error = udx(capsys, monkeypatch, "runs", "--json", "-")
    assert status == 0 and json.loads(out) == []
    assert "runs, mAP and NDS in %" in error
    assert list(tmp_path.iterdir()) == []
    status, out, _ = udx(capsys, monkeypatch, "runs", "--json", "./-")
    assert status == 0 and "runs, mAP and NDS in %" in out
    assert json.loads((tmp_path / "-").read_text()) == []


def test_the_whole_road(capsys, monkeypatch, tmp_path, world_root):
    """Train a teacher by name, distil, evaluate run and engine alike, export, bench, predict."""
    monkeypatch.chdir(tmp_path)
    settings = [part for assignment in TINY for part in ("--set", assignment)]
    source = ("--data", world_root)
    teacher = tmp_path / "runs" / "teacher"
    for run, more in (
        (teacher, ("--student", "lidar")),
        (tmp_path / "runs" / "student", ("--student", "cam", "--teacher", teacher)),
    ):
        status, out, error = udx(
            capsys, monkeypatch, "train", *source, *more, "--out", run, "--epochs", 2, *settings, "--json", "m.json"
        )
        assert status == 0, error
        assert f"{run}: mAP" in out and f"next: udx export --run {run}" in error
        assert f"run {run}: {more[1]} detector, recipe nano" in error and "2 steps in 2 epochs" in error
        assert json.loads(Path("m.json").read_text()) == json.loads((run / "metrics.json").read_text())

    status, out, error = udx(capsys, monkeypatch, "export", "--student", "cam", "--json", "export.json")
    assert status == 0, error
    exported = json.loads(Path("export.json").read_text())
    assert exported["manifest"]["teacher"]["modality"] == "lidar"
    assert exported["parity"]["box"] < 1e-3

    figures, before = {}, None
    for name, what in (("run", ("--run", "runs/student")), ("engine", ("--engine", "student.onnx"))):
        status, out, error = udx(capsys, monkeypatch, "eval", *what, *source, "--json", f"{name}.json")
        assert status == 0, error
        figures[name] = json.loads(Path(f"{name}.json").read_text())
    assert figures["run"].keys() == {"mAP", "NDS", "per_class", "tp_errors"}
    assert figures["run"]["mAP"] == pytest.approx(figures["engine"]["mAP"], abs=1e-6)
    assert figures["run"]["NDS"] == pytest.approx(figures["engine"]["NDS"], abs=1e-4)

    status, out, error = udx(
        capsys, monkeypatch, "bench", "--engine", "student.onnx", "--against", "student.onnx", *source,
        "--blocks", 3, "--max-minutes", 0, "--warmup", 1, "--json", "bench.json", "--html", "bench.html",
    )  # fmt: skip
    assert status == 0, error
    report = json.loads(Path("bench.json").read_text())
    assert report["schema"].startswith("udx-bench/")
    for engine in ("engine", "against"):
        assert report[engine]["accuracy"]["mAP"] == pytest.approx(figures["engine"]["mAP"], abs=1e-9)
        assert report[engine]["accuracy"]["split"] == "val"

    for _ in range(2):  # the second time makes and evaluates nothing again
        status, out, error = udx(
            capsys, monkeypatch, "bench", "--run", "runs/student", *source, "--blocks", 2, "--warmup", 1,
            "--json", "formats.json", "--html", "formats.html",
        )  # fmt: skip
        assert status == 0, error
        formats = {row["format"]: row for row in json.loads(Path("formats.json").read_text())["formats"]}
        for name in ("torch", "ONNX FP32", "partitioned plan"):
            assert formats[name]["metrics"]["mAP"] == pytest.approx(figures["engine"]["mAP"], abs=1e-6)
            assert formats[name]["network"]["median"] > 0 and formats[name]["reason"] is None
        assert all((row["network"] is None) == bool(row["reason"]) for row in formats.values())
        made = {path: path.stat().st_mtime_ns for path in Path("runs/student/bench").glob("student.*")}
        assert made == (before or made)
        before = made

    token = open_dataroot(world_root).sample[0]["token"]
    status, out, error = udx(
        capsys, monkeypatch, "predict", "--engine", "student.onnx", *source, "--sample", token[:12],
        "--png", "boxes.png", "--json", "boxes.json", "--score", "0.0",
    )  # fmt: skip
    assert status == 0, error
    assert Path("boxes.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads(Path("boxes.json").read_text())["boxes"]) == 50

    status, out, error = udx(
        capsys, monkeypatch, "predict", "--engine", "student.onnx", *source, "--split", "val",
        "--png", "pictures", "--json", "submission.json",
    )  # fmt: skip
    assert status == 0, error
    results = json.loads(Path("submission.json").read_text())["results"]
    assert {f"{token}.png" for token in results} == {path.name for path in Path("pictures").iterdir()}


def test_a_dry_run_shows_everything_and_writes_nothing(capsys, monkeypatch, tmp_path, world_root):
    monkeypatch.chdir(tmp_path)
    settings = [part for assignment in (*TINY, "distillation.inherit=nothing") for part in ("--set", assignment)]
    for source in ((), ("--data", world_root)):
        status, out, error = udx(
            capsys, monkeypatch, "train", *source, "--teacher", "lidar", "--dry-run", *settings, "--json", "dry.json"
        )
        assert status == 0, error
        for said in ('"recipe": "nano"', "trained", "activations", "one step on the CPU"):
            assert said in out
        assert [path.name for path in tmp_path.iterdir()] == ["dry.json"]
    assert json.loads(Path("dry.json").read_text())["steps"] == 8


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("pattern", "damage", "said"),
    [
        ("samples/CAM_FRONT/*.jpg", lambda path: path.unlink(), "is missing"),
        ("samples/CAM_BACK/*.jpg", lambda path: path.write_bytes(path.read_bytes()[:300]), ".jpg"),
        ("samples/LIDAR_TOP/*.bin", lambda path: path.write_bytes(path.read_bytes()[:-3]), ".pcd.bin"),
    ],
)
def test_a_damaged_file_in_training_is_one_sentence(
    capsys, monkeypatch, tmp_path, world_root, workers, pattern, damage, said
):
    root = tmp_path / "world"
    shutil.copytree(world_root, root)
    for path in root.glob(pattern):
        damage(path)
    settings = [part for assignment in (*TINY, f"train.workers={workers}") for part in ("--set", assignment)]
    arguments = ("--student", "fusion", "--data", root, "--out", tmp_path / "run", "--epochs", 1, *settings)
    status, _, error = udx(capsys, monkeypatch, "train", *arguments)
    assert status == 2
    *told, last = error.strip().splitlines()
    assert last.startswith("udx: ") and said in last
    assert len(told) == 3 and told[0].startswith("run ")  # what was to be trained
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_a_teacher_named_by_modality_is_found_or_trained(capsys, monkeypatch, tmp_path, world_root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("udx.train.recipes.RECIPES", tiny := _tiny_recipes())
    monkeypatch.setattr("udx.train.job.RECIPES", tiny)
    common = ("train", "--data", world_root, "--student", "cam", "--teacher", "lidar")
    status, _, error = udx(capsys, monkeypatch, *common, "--out", "runs/one")
    assert status == 0, error
    trained = Path("runs/nano-lidar/checkpoint.safetensors").stat().st_mtime_ns
    status, _, error = udx(capsys, monkeypatch, *common, "--out", "runs/two")
    assert status == 0, error
    assert Path("runs/nano-lidar/checkpoint.safetensors").stat().st_mtime_ns == trained
    assert {path.name for path in Path("runs").iterdir()} == {"nano-lidar", "one", "two"}


def _tiny_recipes():
    from tests.tiny import tiny_run

    return {"nano": lambda modality: tiny_run(modality, epochs=1)}


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    from udx.errors import UdxError
    from udx.files import write_with

    def fill(partial):
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("old")
    with pytest.raises(UdxError, match="No space left on device; free some space"):
        write_with(tmp_path / "file", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
