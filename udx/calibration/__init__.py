"""From an FP32 export to one in INT8, FP8 or FP16: calibration, sensitivity, and what must stay exact."""
