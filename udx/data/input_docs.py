"""What a detector's tensors mean, in a sentence each: written into every export, shown by ``udx check``."""

from udx.data.spec import POINT_FEATURES, SensorSpec

BEV_FRAME = "BEV frame (the vehicle at the keyframe's LiDAR time: x forward, y left, z up, metres)"


def describe_inputs(spec: SensorSpec) -> dict[str, str]:
    """Meaning of every input's axes, order of channels, frame and unit, by the inputs' names."""
    said: dict[str, str] = {}
    if spec.camera is not None:
        frustum, grid = spec.camera.frustum, spec.grid
        height, width = frustum.feature_shape
        rows, columns = grid.shape
        size = f"{frustum.image_width_px} × {frustum.image_height_px} px"
        said["images"] = (
            f"(camera, row, column, channel) bytes 0 to 255, channels R, G, B, not normalised; cameras in the order "
            f"{', '.join(spec.camera.names)}; each scaled to the width of {size}, and of its height the bottom kept"
        )
        said["pool_index"] = (
            f"calibration, from `udx rig`: the frustum points, each once, sorted by the cell that they fall in, "
            f"the rest last; a point is ((camera · {frustum.depth_bins} + depth bin) · {height} + row) · {width} + "
            "column of the feature map"
        )
        said["pool_offsets"] = (
            f"calibration, from `udx rig`: the points of cell c are pool_index[pool_offsets[c]:pool_offsets[c + 1]]; "
            f"c = row · {columns} + column of a grid of {rows} × {columns} cells of {grid.cell:g} m, cell 0 at "
            f"x = {grid.x_min:g}, y = {grid.y_min:g} m of the {BEV_FRAME}; rows go along y"
        )
    if spec.lidar is not None:
        said["points"] = (
            f"(point, feature) LiDAR points in the {BEV_FRAME}, of {spec.lidar.sweeps} sweeps at most; features "
            f"{', '.join(POINT_FEATURES)}: x, y, z in metres, intensity 0 to 1, age in seconds before the keyframe; "
            "rows from num_points on are not read"
        )
        said["num_points"] = "how many rows of points are valid; those beyond the buffer are counted and left out"
    return said


def describe_outputs(classes: tuple[str, ...]) -> dict[str, str]:
    """Meaning of every output, by the outputs' names."""
    return {
        "boxes": (
            "(box, field) x, y, z of the centre, length along the heading, width, height in metres; yaw in radians, "
            f"counter-clockwise from +x; velocity x, y in m/s; in the {BEV_FRAME}; best score first"
        ),
        "scores": "score of each box, 0 to 1",
        "labels": f"class of each box: {', '.join(f'{at} {name}' for at, name in enumerate(classes))}",
    }
