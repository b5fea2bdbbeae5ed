"""LiDAR, camera and fusion detectors with one BEV encoder and one centre head."""
