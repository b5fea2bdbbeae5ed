"""From an exported ONNX file to a plan that an engine library loads; imports no torch but to compile kernels."""
