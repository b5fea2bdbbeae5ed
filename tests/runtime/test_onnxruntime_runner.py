"""What ONNX Runtime is asked for; what it computes is in the contract of all runners."""

from types import SimpleNamespace

import onnxruntime
import pytest

from udx.errors import UdxError
from udx.runtime import open_engine


class Session:
    """Stands for a session on a GPU."""

    def __init__(self, made: list["Session"], starts: str, providers) -> None:
        self.providers, self.starts, self.fallback, self.failure = providers, starts, True, None
        made.append(self)

    def get_providers(self) -> list[str]:
        return [self.starts]

    def disable_fallback(self) -> None:
        self.fallback = False

    def run(self, names, tensors):
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=here\nand more lines")


@pytest.fixture
def cuda(monkeypatch):
    """An ONNX Runtime with CUDA: the sessions that it made, and what they start."""
    made: list[Session] = []
    found = SimpleNamespace(made=made, starts="CUDAExecutionProvider", preloaded=0)

    def preload() -> None:
        found.preloaded += 1

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [found.starts, "CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, providers, **more: Session(made, found.starts, providers),
    )
    return found


def test_on_a_gpu_fp32_means_fp32_and_nothing_goes_on_elsewhere(cuda, make_engine):
    with open_engine(make_engine(), "onnxruntime-cuda") as runner:
        (session,) = cuda.made
        assert session.providers == [("CUDAExecutionProvider", {"use_tf32": "0"})]
        assert session.fallback is False
        assert cuda.preloaded == 1
        assert runner.settings["provider"] == "CUDAExecutionProvider"


def test_memory_that_runs_out_in_mid_run_is_one_sentence(cuda, make_engine):
    from udx.runtime.frames import generated_frame

    with open_engine(make_engine(), "onnxruntime-cuda") as runner:
        frame = generated_frame(runner.manifest, seed=0)[0]()
        with pytest.raises(
            UdxError, match=r"ONNX Runtime failed on .* \(CUDA failure 2: out of memory .*\); free"
        ) as said:
            runner.infer(frame)
    assert "\n" not in str(said.value)
    with pytest.raises(AssertionError, match="activate"):
        runner.infer(frame)


def test_a_provider_that_does_not_start_is_no_reason_to_take_another(cuda, make_engine):
    cuda.starts = "CPUExecutionProvider"
    with pytest.raises(UdxError, match="cannot start CUDAExecutionProvider on this machine"):
        open_engine(make_engine(), "onnxruntime-cuda").activate()
