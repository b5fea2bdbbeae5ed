"""How fast the synthetic world is written: samples a second, images, LiDAR sweeps and tables included.

    python benchmarks/synth_speed.py [--scenes N] [--samples N] [--width PX] [--sweeps N] [--device cpu|cuda]

Prints a table and saves it as JSON: the rate of the whole run, in which every worker first imports torch; the
steady rate between the first and the last sample; and the processor time of one sample, which other programs on
the machine disturb least.
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy
import torch

import udx
from udx.data.synth import WorldSpec, write_world
from udx.files import write_json

RESULTS = Path(__file__).parent / "results" / "synth_speed.json"


def processor() -> str:
    """Name of the CPU, as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def processor_seconds() -> float:
    """Processor time of this process and of its ended children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(spec: WorldSpec, device: str, workers: int) -> dict[str, float]:
    """Write one world to a temporary folder and return its rates."""
    finished: list[float] = []
    processor_before = processor_seconds()
    with tempfile.TemporaryDirectory(prefix="synth-speed-") as folder:
        started = time.perf_counter()
        out = Path(folder) / "world"
        write_world(out, spec, device=device, workers=workers, progress=lambda *_: finished.append(time.perf_counter()))
        elapsed = time.perf_counter() - started
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        "samples": len(finished),
        "seconds": round(elapsed, 2),
        "samples_per_s": round(len(finished) / elapsed, 2),
        "steady_samples_per_s": round((len(finished) - 1) / (finished[-1] - finished[0]), 2),
        "processor_s_per_sample": round((processor_seconds() - processor_before) / len(finished), 3),
        "mb_per_sample": round(size / len(finished) / 1e6, 2),
    }


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--width", type=int, default=352, help="image width in pixels")
    parser.add_argument("--sweeps", type=int, default=2, help="LiDAR sweeps besides the keyframe's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device on this machine; leave out --device cuda")
    spec = WorldSpec(scenes=args.scenes, samples=args.samples, sweeps=args.sweeps, image_width_px=args.width)
    report = {
        "spec": {"scenes": args.scenes, "samples": args.samples, "image_width_px": args.width, "sweeps": args.sweeps},
        "machine": {
            "processor": processor(),
            "workers": args.workers,
            "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {
            "udx": udx.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "result": measure(spec, args.device, args.workers),
    }
    for group, values in report.items():
        for name, value in values.items():
            print(f"{group:>9}  {name:<22} {value}")
    write_json(args.json, report)


if __name__ == "__main__":
    main()
