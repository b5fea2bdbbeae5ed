"""A training as a command of its own: in_group.py ROOT OUT [--resume]; see ``test_interrupted.py``."""

import sys
from pathlib import Path

import click

from tests.tiny import tiny_run
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.entry import run_command
from udx.train.loop import Job, train
from udx.train.run import Run


@click.command()
@click.argument("root", type=Path)
@click.argument("out", type=Path)
@click.option("--resume", is_flag=True)
def main(root: Path, out: Path, resume: bool) -> None:
    keyframes = load_keyframes(open_dataroot(root), "train", max_sweeps=1)
    config = tiny_run("lidar", epochs=10_000, batch_size=1, workers=2)
    train(Job(config=config, keyframes=keyframes, data={"keyframes": "tiny"}, run=Run(out), resume=resume))


if __name__ == "__main__":
    sys.argv[0] = "train"
    run_command(main)
