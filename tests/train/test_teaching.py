"""The teacher's side of a training: who teaches, what is said of it, and that a cache changes nothing."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_detector, tiny_run
from udx.data.augment import AugmentationConfig, BevAugmentation
from udx.errors import UdxError
from udx.files import write_json
from udx.models.detector import Detector
from udx.train.checkpoint import TeacherRecord
from udx.train.gradients import gradient_norms
from udx.train.logbook import read_log
from udx.train.loop import Job, train
from udx.train.run import Run
from udx.train.teaching import doubt, futile_cache, inherit, load_teacher, teacher_is_weaker

TURNING = AugmentationConfig(bev=BevAugmentation(rotation_rad=(-0.5, 0.5)), draws=2)


def record(modality: str, mAP: float | None = None) -> TeacherRecord:
    return TeacherRecord(run="runs/t", modality=modality, checkpoint_sha256="0" * 64, mAP=mAP, NDS=None)


@pytest.fixture(scope="module")
def teacher(keyframes, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("runs") / "teacher")
    train(Job(config=tiny_run("fusion", epochs=1), keyframes=keyframes, data={"keyframes": "tiny"}, run=run))
    return run


def lines(run: Run) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "memory_mb")}
        for line in read_log(run.log)
    ]


@pytest.mark.parametrize(
    ("teacher", "student", "weaker"),
    [("cam", "lidar", True), ("cam", "fusion", True), ("lidar", "cam", False), ("cam", "cam", False)],
)
def test_without_figures_the_modality_tells_who_is_weaker(teacher, student, weaker):
    assert teacher_is_weaker(record(teacher), student, None) is weaker
    assert teacher_is_weaker(record(teacher, 0.4), student, None) is weaker, "one figure alone tells nothing"
    said = doubt(record(teacher), student, None)
    assert (said is not None) is weaker


def test_figures_count_more_than_modalities():
    assert teacher_is_weaker(record("fusion", 0.20), "cam", 0.25)
    assert not teacher_is_weaker(record("cam", 0.30), "lidar", 0.25)
    assert doubt(record("cam", 0.30), "lidar", 0.25) is None
    said = doubt(record("fusion", 0.20), "cam", 0.25)
    assert said == (
        "the teacher runs/t (mAP 0.200) is not better than a cam student without it (mAP 0.250): it may teach little"
    )
    assert doubt(record("lidar", 0.25), "cam", 0.25) is not None, "equal is not better"


def test_a_doubtful_teacher_is_announced_before_the_first_step(make_job, tmp_path, teacher):
    """And by its mAP it gets the paper's adaptive layers."""
    taught = Run(tmp_path / "weak")
    taught.folder.mkdir()
    taught.checkpoint.symlink_to(teacher.checkpoint)
    write_json(taught.metrics, {"mAP": 0.1, "NDS": 0.2})
    said: list[str] = []
    train(make_job(tmp_path / "run", "cam", epochs=1, teacher=taught, student_mAP=0.3, warn=said.append))
    assert len(said) == 1 and "(mAP 0.100) is not better than a cam student" in said[0]
    state = torch.load(Run(tmp_path / "run").state, weights_only=True)["learner"]["distiller"]
    assert state["objectives.feature.adapter.0.weight"].shape[2:] == (3, 3)
    assert Run(tmp_path / "run").record().teacher.mAP == 0.1


@pytest.mark.parametrize("augmentation", [None, TURNING], ids=["plain", "augmented"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_remembered_teacher_teaches_the_very_same(make_job, tmp_path, teacher, augmentation, workers, monkeypatch):
    """Online, into the cache, and out of it: the same losses, and in the last the teacher is never run.

    Out of the cache they are those of filling it to the last bit. Online they differ in rounding: there a sample meets
    the teacher in the company of other samples in every epoch, and convolutions round by batch.
    """
    settings = {"teacher": teacher, "epochs": 4, "augmentation": augmentation, "workers": workers}
    cache = tmp_path / "cache"
    online = make_job(tmp_path / "online", "cam", **settings)
    filling = make_job(tmp_path / "filling", "cam", teacher_cache=cache, **settings)
    train(online)
    train(filling)
    for one, other in zip(lines(online.run), lines(filling.run), strict=True):
        assert one == pytest.approx(other, rel=2e-3, abs=1e-4)
    monkeypatch.setattr("udx.train.distiller.FrozenTeacher.__call__", refuse)
    remembering = make_job(tmp_path / "remembering", "cam", teacher_cache=cache, **settings)
    train(remembering)
    assert lines(filling.run) == lines(remembering.run)
    weights = [load_file(job.run.checkpoint) for job in (filling, remembering)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def refuse(*_: object) -> None:
    raise AssertionError("the teacher was run although all its lessons are remembered")


def test_what_is_remembered_is_loaded_without_the_teachers_sensors(make_job, tmp_path, teacher, keyframes):
    from udx.train.batch import KeyFrames
    from udx.train.teaching import begin_teaching

    job = make_job(tmp_path / "run", "cam", epochs=4, teacher=teacher, teacher_cache=tmp_path / "cache")
    train(job)
    teaching = begin_teaching(
        teacher,
        Detector(tiny_detector("cam")),
        job.config,
        keyframes,
        student_mAP=None,
        cache=tmp_path / "cache",
        device=torch.device("cpu"),
        warn=lambda sentence: None,
    )
    assert len(teaching.cache) == len(keyframes)
    samples = KeyFrames(keyframes, job.config.detector.spec, teaching.spec, remembered=teaching.cache)
    assert samples[0, 0].teacher_inputs is None and set(samples[0, 3].lessons[0]) == {"feature", "relation", "response"}


def test_a_stale_cache_is_refused_before_the_first_step(make_job, tmp_path, teacher):
    cache = tmp_path / "cache"
    train(make_job(tmp_path / "first", "cam", epochs=1, teacher=teacher, teacher_cache=cache))
    other = make_job(
        tmp_path / "second", "cam", epochs=1, teacher=teacher, teacher_cache=cache, augmentation=TURNING, seed=1
    )
    with pytest.raises(UdxError, match=r"made with a different augmentation.*choose another folder"):
        train(other)
    assert not other.run.folder.exists()


def test_weights_may_change_under_a_cache_but_not_what_is_read(make_job, tmp_path, teacher):
    cache, config = tmp_path / "cache", tiny_run("cam", epochs=1)
    train(make_job(tmp_path / "first", config=config, teacher=teacher, teacher_cache=cache))

    def changed(name: str, **settings: object):
        objectives = dict(config.distillation.objectives)
        objectives[name] = dataclasses.replace(objectives[name], **settings)
        return dataclasses.replace(config, distillation=dataclasses.replace(config.distillation, objectives=objectives))

    train(make_job(tmp_path / "heavier", config=changed("feature", weight=3.0), teacher=teacher, teacher_cache=cache))
    warmer = changed("response", teacher_temperature=2.0)
    with pytest.raises(UdxError, match="made with a different objectives"):
        train(make_job(tmp_path / "warmer", config=warmer, teacher=teacher, teacher_cache=cache))


def test_the_encoder_may_learn_first_and_alone(make_job, tmp_path, teacher):
    """In the first half no detection loss is taken, and BEV encoder and head stay as they were."""
    config = tiny_run("cam", epochs=2)
    start = torch.manual_seed(config.train.seed) and Detector(config.detector).state_dict()
    first = dataclasses.replace(config, distillation=dataclasses.replace(config.distillation, encoder_first=0.5))
    job = make_job(tmp_path / "run", config=first, teacher=teacher, watch=lambda progress: seen.append(progress))
    seen: list = []
    train(job)
    steps = [set(progress.losses) for progress in seen]
    half = len(steps) // 2
    assert all("heatmap" not in names and "feature" in names and "response" not in names for names in steps[:half])
    assert all({"heatmap", "feature", "response"} <= names for names in steps[half:])
    stopped = make_job(tmp_path / "stopped", config=first, teacher=teacher, watch=stop_after(half))
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    weights = load_file(stopped.run.checkpoint)
    moved = {name.split(".")[0] for name, value in weights.items() if not torch.equal(value, start[name])}
    assert moved == {"camera"}


def stop_after(step: int):
    import signal

    def watch(progress):
        if progress.step == step:
            signal.raise_signal(signal.SIGINT)

    return watch


def test_the_log_tells_how_hard_each_term_pulls(make_job, tmp_path, teacher):
    job = make_job(tmp_path / "run", "cam", epochs=5, teacher=teacher, gradient_norms_every=2)
    train(job)
    log = read_log(job.run.log)
    told = [line["step"] for line in log if "feature_gradient_norm" in line]
    assert told == [line["step"] for line in log if line["step"] % 2 == 1]
    for name in ("detection", "feature", "relation", "response"):
        norms = [line[f"{name}_gradient_norm"] for line in log if line["step"] in told]
        assert all(norm >= 0 for norm in norms) and any(norm > 0 for norm in norms), name


def test_gradient_norms_by_hand():
    x = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    y = torch.nn.Parameter(torch.tensor([0.5]))
    terms = {"x": (x * torch.tensor([3.0, 4.0])).sum(), "both": 6 * x[0] + 8 * y[0], "none": torch.tensor(1.0)}
    for scale in (1.0, 1024.0):
        assert gradient_norms(terms, [x, y], scale) == {"x": 5.0, "both": 10.0, "none": 0.0}
    assert x.grad is None and y.grad is None


def test_a_teacher_that_loads_only_in_part_is_refused(make_job, tmp_path, teacher):
    from safetensors.torch import safe_open, save_file

    with safe_open(teacher.checkpoint, framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(teacher.checkpoint)
    weights.pop(next(iter(sorted(weights))))
    partial = Run(tmp_path / "partial")
    partial.folder.mkdir()
    save_file(weights, partial.checkpoint, metadata=metadata)
    with pytest.raises(UdxError, match="1 missing, as bev_encoder"):
        train(make_job(tmp_path / "run", "cam", teacher=partial))
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused(make_job, tmp_path, teacher):
    from safetensors.torch import safe_open, save_file

    with safe_open(teacher.checkpoint, framework="pt") as file:
        metadata = file.metadata()
    plain = json.loads(metadata["udx"])
    plain["classes"] = plain["classes"][::-1]
    foreign = Run(tmp_path / "foreign")
    foreign.folder.mkdir()
    save_file(load_file(teacher.checkpoint), foreign.checkpoint, metadata={"udx": json.dumps(plain)})
    with pytest.raises(UdxError, match="was written with classes"):
        load_teacher(foreign)


@pytest.mark.parametrize(
    ("what", "modules"), [("bev", {"bev_encoder", "head"}), ("all", {"bev_encoder", "head", "camera"})]
)
def test_a_student_inherits_what_it_shares_with_its_teacher(teacher, what, modules):
    student, (detector, _) = Detector(tiny_detector("cam")), load_teacher(teacher)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    inherit(student, detector, what)
    theirs = detector.state_dict()
    for name, value in student.state_dict().items():
        assert torch.equal(value, theirs[name] if name.split(".")[0] in modules else before[name]), name
    inherit(student, detector, "nothing")


def test_an_heir_starts_as_the_teacher_and_then_goes_its_own_way(make_job, tmp_path, teacher):
    config = tiny_run("lidar", epochs=1)
    config = dataclasses.replace(config, distillation=dataclasses.replace(config.distillation, inherit="all"))
    job = make_job(tmp_path / "run", config=config, teacher=teacher)
    train(job)
    own, theirs = load_file(job.run.checkpoint), load_file(teacher.checkpoint)
    learned = [name for name in own if name.endswith("weight") and own[name].dim() > 1]
    assert learned and not any(torch.equal(own[name], theirs[name]) for name in learned)


def test_nobody_inherits_from_a_teacher_of_other_widths(make_job, tmp_path, teacher):
    config = tiny_run("cam", epochs=1)
    config = dataclasses.replace(
        config,
        detector=tiny_detector("cam", low_channels=16),
        distillation=dataclasses.replace(config.distillation, inherit="bev"),
    )
    with pytest.raises(UdxError, match="cannot inherit the teacher's bev encoder"):
        train(make_job(tmp_path / "run", config=config, teacher=teacher))
    assert not (tmp_path / "run").exists()


def test_shares_are_of_the_heads_loss_without_the_cameras_depth(make_job, tmp_path, teacher):
    config = tiny_run("cam", epochs=1)
    job = make_job(
        tmp_path / "run",
        config=dataclasses.replace(config, loss=dataclasses.replace(config.loss, depth=50.0)),
        teacher=teacher,
    )
    train(job)
    (line,) = read_log(job.run.log)[:1]
    heads = sum(line[name] for name in ("heatmap", "offset", "z", "log_size", "heading", "velocity"))
    assert line["depth"] > heads, "the depth would show"
    assert line["detection"] == pytest.approx(heads, rel=1e-5)
    state = torch.load(job.run.state, weights_only=True)["learner"]["distiller"]
    observed = next(value for name, value in state.items() if name.startswith("means") and value.dim() == 1)
    assert float(observed[0]) < line["depth"]


@pytest.mark.parametrize(("draws", "epochs", "futile"), [(None, 9, True), (2, 9, False), (9, 9, True), (8, 9, False)])
def test_a_cache_that_no_epoch_can_read_is_announced(draws, epochs, futile):
    augmentation = dataclasses.replace(TURNING, draws=draws)
    said = futile_cache(tiny_run("cam", epochs=epochs, augmentation=augmentation))
    assert (said is not None) is futile
    assert said is None or "train.augmentation.draws" in said
    assert futile_cache(tiny_run("cam", epochs=epochs)) is None, "without augmentation every epoch reads it"


def test_a_futile_cache_is_announced_before_the_first_step(make_job, tmp_path, teacher):
    said: list[str] = []
    augmentation = dataclasses.replace(TURNING, draws=None)
    job = make_job(tmp_path / "run", "cam", epochs=1, augmentation=augmentation, teacher=teacher, warn=said.append)
    train(dataclasses.replace(job, teacher_cache=tmp_path / "cache"))
    assert any("teacher cache will not be read" in sentence for sentence in said)
