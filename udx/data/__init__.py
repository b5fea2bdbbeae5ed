"""nuScenes in, samples out: keyframes, sweeps, calibration, augmentation, the synthetic world. No torch."""
