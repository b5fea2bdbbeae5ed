"""udx: train, distil, export and prove BEV 3D detectors, from nuScenes to a deployment engine."""

__version__ = "0.1.0"
