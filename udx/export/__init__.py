"""From a checkpoint to one self-contained ONNX file; reads checkpoints, knows nothing of training."""
