"""ONNX engines in ONNX Runtime, on the CPU or a CUDA device."""

import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from udx.data.inputs import Tensors
from udx.errors import MissingHardwareError, UdxError, first_line
from udx.runtime.isolation import Suspect, check_in_isolation
from udx.runtime.onnx_file import OnnxFile
from udx.runtime.operators import OperatorTimes, read_profile
from udx.runtime.runner import Runner
from udx.tensors import tensor_spec

Provider = Literal["cpu", "cuda"]
_PROVIDERS: Final[Mapping[Provider, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_OPTIONS: Final[Mapping[Provider, dict[str, str]]] = {
    "cpu": {},
    # FP32 means FP32: coordinates and decoding do not bear TF32's 10 bits of mantissa, which is CUDA's default.
    "cuda": {"use_tf32": "0"},
}
_HARMFUL: Final = ["ReluQuantRewrite"]
"""It removes a Relu before a QuantizeLinear whose zero point has the bits of UINT8's least value, even if it is FP8's
zero: negative values would come through. Graphs without unsigned types gain nothing by it."""


class OnnxRuntimeRunner(Runner):
    """Runs a file that was checked; weights beside it are read from its own folder only."""

    def __init__(self, file: OnnxFile, provider: Provider = "cpu", threads: int | None = None) -> None:
        require_threads(threads)
        super().__init__(file.path, file.manifest, file.inputs, file.outputs)
        self._file = file
        self._provider = provider
        self._threads = threads
        self._output_names = [spec.name for spec in file.outputs]
        self._session: Any = None

    @property
    def settings(self) -> Mapping[str, str | int | None]:
        """Backend, version, execution provider, threads (None: the backend's own choice), and options."""
        return session_settings(self._provider, self._threads)

    def _activate(self) -> None:
        assert self._session is None, "already active"
        content = require_runnable(self._file)
        folder = self.path.resolve().parent
        self._session = open_session(content, str(self.path), self._provider, self._threads, folder)

    def _infer(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        assert self._session is not None, "activate the runner first"
        try:
            outputs = self._session.run(self._output_names, dict(tensors))
        except Exception as error:
            raise UdxError(
                f"ONNX Runtime failed on {self.path} ({first_line(error)}); free memory or export it again"
            ) from error
        return dict(zip(self._output_names, outputs, strict=True))

    def _deactivate(self) -> None:
        self._session = None

    def operator_times(self, frames: Sequence[Tensors]) -> OperatorTimes | None:
        """Run frames under ONNX Runtime's profiler, in a session of its own.

        Args:
            frames: at least two; the first is the warm-up.

        Returns:
            None on CUDA, where the profiler times launches and not the work.

        Raises:
            UdxError: the file was replaced meanwhile, or the profiler's file cannot be written.
        """
        assert len(frames) >= 2
        if self._provider != "cpu":
            return None
        content = require_runnable(self._file)
        folder = self.path.resolve().parent
        with tempfile.TemporaryDirectory(prefix="udx-profile-") as scratch:
            profile = Path(scratch) / "profile"
            session = open_session(content, str(self.path), "cpu", self._threads, folder, profile=profile)
            try:
                for tensors in frames:
                    session.run(self._output_names, dict(tensors))
                written = Path(session.end_profiling())
                source = f"ONNX Runtime {_import_onnxruntime().__version__}'s profiler"
                return read_profile(written, len(frames) - 1, source)
            except Exception as error:
                raise UdxError(
                    f"ONNX Runtime cannot profile {self.path} ({first_line(error)}); free memory or disk space"
                ) from error


def require_runnable(file: OnnxFile) -> bytes:
    """Return the content of a checked file after it has run one frame in a process of its own.

    Raises:
        UdxError: the file is another one than was checked, or ONNX Runtime refuses it, crashes on it or hangs.
    """
    try:
        content = file.path.read_bytes()
    except OSError as error:
        raise UdxError(f"cannot read engine {file.path}: {error.strerror}; check the path") from error
    if sha256(content).hexdigest() != file.sha256:
        raise UdxError(f"{file.path} has been replaced since it was opened; open it again")
    _import_onnxruntime()
    check_in_isolation(Suspect(content=content, source=str(file.path), path=file.path), "run")
    return content


def run_once(suspect: Suspect) -> None:
    """Open a session on a model and run a frame of zeros; open dimensions are 1.

    Raises:
        UdxError: ONNX Runtime refuses the model or fails on the frame.
    """
    import onnx

    folder = suspect.path.parent if suspect.path is not None else None
    session = open_session(suspect.content, suspect.source, folder=folder)
    graph = onnx.load_model_from_string(suspect.content).graph
    stored = {tensor.name for tensor in graph.initializer}
    specs = [tensor_spec(value) for value in graph.input if value.name not in stored]
    zeros = {spec.name: np.zeros([max(length, 1) for length in spec.shape], spec.dtype) for spec in specs}
    try:
        session.run(None, zeros)
    except Exception as error:
        raise UdxError(f"ONNX Runtime fails on {suspect.source} ({first_line(error)}); export it again") from error


def open_session(
    model: bytes,
    source: str,
    provider: Provider = "cpu",
    threads: int | None = None,
    folder: Path | None = None,
    *,
    profile: Path | None = None,
) -> Any:
    """Open a session on a checked model.

    Args:
        model: a serialized ``ModelProto``.
        source: its name in errors.
        provider: where it runs.
        threads: within an operator; None is ONNX Runtime's own choice.
        folder: holds weights outside of the model.
        profile: beginning of the path that the profiler writes to, until ``end_profiling``; None: no profiler.

    Raises:
        UdxError: ONNX Runtime is not installed, lacks the provider, or refuses the model.
    """
    ort = _import_onnxruntime()
    wanted = _PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        raise UdxError(f"this onnxruntime has no {wanted}; install onnxruntime-gpu in its place, or run on the CPU")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; said once is enough
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads that spin while they wait take the cores from decoding, from the next engine of a comparison,
    # and from every other program; letting them sleep costs microseconds.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if provider == "cuda" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN as pip installs them; without those, the system's are found as ever
    try:
        session = ort.InferenceSession(
            model, options, providers=[(wanted, _OPTIONS[provider])], disabled_optimizers=_HARMFUL
        )
    except Exception as error:  # onnxruntime's own classes derive from Exception directly
        raise UdxError(f"ONNX Runtime refuses {source} ({first_line(error)}); export it again") from error
    if session.get_providers()[0] != wanted:
        raise MissingHardwareError(
            f"ONNX Runtime cannot start {wanted} on this machine; check the driver and CUDA libraries"
        )
    session.disable_fallback()  # a failing GPU is an error, not a reason to go on elsewhere
    return session


def session_settings(provider: Provider, threads: int | None) -> dict[str, str | int | None]:
    """What a report says of sessions that ``open_session`` opens."""
    return {
        "backend": "onnxruntime",
        "version": _import_onnxruntime().__version__,
        "provider": _PROVIDERS[provider],
        "threads": threads,
        "graph_optimization": "all",
        "spinning": "off",
    }


def require_threads(threads: int | None) -> None:
    """Raise ``UdxError`` unless a number of threads is one, or left to the backend."""
    if threads is not None and threads < 1:
        raise UdxError(f"an engine needs at least one thread, not {threads}")


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UdxError("running ONNX engines needs onnxruntime; install udx[cpu] or udx[gpu]") from error
    return onnxruntime
