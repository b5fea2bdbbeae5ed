"""The ten nuScenes classes as composed solids, with the dataset's typical sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.random import Generator

from udx.data.synth.solids import Colour, Primitive, Solid, Surface, Vector, bounds_of, turned
from udx.geometry.arrays import FloatArray

BLACK: Final[Colour] = (0.02, 0.02, 0.022)
DARK: Final[Colour] = (0.05, 0.05, 0.055)
STEEL: Final[Colour] = (0.25, 0.26, 0.28)
GLASS: Final[Colour] = (0.035, 0.05, 0.065)
HEADLAMP: Final[Colour] = (0.9, 0.9, 0.8)
TAILLAMP: Final[Colour] = (0.6, 0.02, 0.02)
CAR_PAINTS: Final[tuple[Colour, ...]] = (
    (0.75, 0.75, 0.75),
    (0.45, 0.46, 0.48),
    (0.08, 0.08, 0.09),
    (0.5, 0.04, 0.04),
    (0.05, 0.12, 0.4),
    (0.16, 0.17, 0.19),
    (0.1, 0.25, 0.12),
    (0.55, 0.42, 0.22),
    (0.85, 0.85, 0.82),
)
BUS_PAINTS: Final[tuple[Colour, ...]] = ((0.65, 0.06, 0.05), (0.1, 0.4, 0.16), (0.8, 0.5, 0.05), (0.08, 0.2, 0.5))
CAB_PAINTS: Final[tuple[Colour, ...]] = ((0.7, 0.7, 0.7), (0.1, 0.2, 0.5), (0.6, 0.08, 0.06), (0.8, 0.6, 0.1))
CARGO_PAINTS: Final[tuple[Colour, ...]] = ((0.75, 0.75, 0.72), (0.5, 0.55, 0.6), (0.3, 0.4, 0.5), (0.6, 0.5, 0.4))
SKINS: Final[tuple[Colour, ...]] = ((0.6, 0.4, 0.3), (0.35, 0.2, 0.13), (0.7, 0.5, 0.4), (0.18, 0.1, 0.07))
TROUSERS: Final[tuple[Colour, ...]] = ((0.04, 0.06, 0.15), (0.05, 0.05, 0.05), (0.3, 0.25, 0.18), (0.15, 0.15, 0.17))


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Model:
    """One object's solids, centred in x and y and standing on z = 0, and the tight box (l, w, h) around them."""

    category: str
    solids: tuple[Solid, ...]
    size_lwh_m: Vector


def _model(category: str, solids: Sequence[Solid]) -> Model:
    """Centre the solids; the box is what they fill, so that it is tight by construction."""
    low, high = bounds_of(solids)
    shift = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    moved = tuple(replace(solid, centre_m=_vector(np.array(solid.centre_m) - shift)) for solid in solids)
    return Model(category=category, solids=moved, size_lwh_m=_vector(high - low))


def _vector(values: Sequence[float] | FloatArray) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _pick(rng: Generator, colours: Sequence[Colour], spread: float = 0.15) -> Colour:
    """Choose a colour and vary its brightness."""
    chosen = np.array(colours[rng.integers(len(colours))]) * rng.uniform(1 - spread, 1 + spread)
    return _vector(np.clip(chosen, 0.0, 0.95))


def _size(rng: Generator, length_m: float, width_m: float, height_m: float, spread: float) -> Vector:
    return _vector(np.array([length_m, width_m, height_m]) * rng.uniform(1 - spread, 1 + spread, 3))


def _block(
    x: tuple[float, float],
    y: tuple[float, float],
    z: tuple[float, float],
    colour: Colour,
    surface: Surface = Surface.MATT,
    taper: Vector = (0.0, 0.0, 0.0),
) -> Solid:
    """A block from its lowest to its highest coordinate on each axis, metres."""
    spans = np.array([x, y, z])
    centre, half = _vector(spans.mean(axis=1)), _vector((spans[:, 1] - spans[:, 0]) / 2)
    return Solid(Primitive.BLOCK, centre, half, colour, surface, taper)


def _wheels(xs: Sequence[float], outer_y_m: float, radius_m: float, width_m: float) -> list[Solid]:
    """Wheels standing on the ground on both sides, their outer faces at ±``outer_y_m``."""
    half = (radius_m, radius_m, width_m / 2)
    upright = [
        Solid(Primitive.ROUND, (x, side * (outer_y_m - width_m / 2), radius_m), half, DARK, Surface.RUBBER)
        for x in xs
        for side in (-1, 1)
    ]
    return [turned(wheel, roll_rad=np.pi / 2) for wheel in upright]


def _lamps(x_m: float, half_width_m: float, z_m: float, colour: Colour, size_m: float) -> list[Solid]:
    """A pair of lamps across the body, centred on its front or rear face."""
    return [
        Solid(
            Primitive.BLOCK,
            (x_m, side * (half_width_m - size_m), z_m),
            (0.03, size_m, size_m * 0.55),
            colour,
            Surface.LAMP,
        )
        for side in (-1, 1)
    ]


def car(rng: Generator) -> Model:
    """A saloon, hatchback or off-roader: body, glasshouse, roof, bumpers, wheels, lamps."""
    length, width, height = _size(rng, 4.62, 1.93, 1.66, 0.07)
    body_style = rng.integers(3)
    rear, front, rear_taper = ((-0.36, 0.22, 0.55), (-0.47, 0.2, 0.28), (-0.48, 0.18, 0.14))[body_style]
    height *= (0.93, 0.98, 1.1)[body_style]
    paint, half_l, half_w = _pick(rng, CAR_PAINTS), length / 2, width / 2
    belt, clearance = 0.57 * height, 0.2
    cabin_x = (rear * length, front * length)
    cabin_half = (cabin_x[1] - cabin_x[0]) / 2
    front_taper = 0.62
    roof_x = (cabin_x[0] + rear_taper * cabin_half, cabin_x[1] - front_taper * cabin_half)
    cabin_w = half_w * 0.93
    return _model(
        "vehicle.car",
        [
            _block(
                (-half_l, half_l), (-half_w, half_w), (clearance + 0.14, belt), paint, Surface.PAINT, (0.1, 0.05, 0.07)
            ),
            _block(
                (-half_l + 0.02, half_l - 0.02), (-half_w + 0.03, half_w - 0.03), (clearance, clearance + 0.2), DARK
            ),
            _block(
                cabin_x,
                (-cabin_w, cabin_w),
                (belt, height - 0.04),
                GLASS,
                Surface.GLASS,
                (front_taper, rear_taper, 0.2),
            ),
            _block(
                roof_x,
                (-cabin_w * 0.82, cabin_w * 0.82),
                (height - 0.07, height),
                paint,
                Surface.PAINT,
                (0.05, 0.05, 0.06),
            ),
            _block(
                (roof_x[0] + 0.42 * (roof_x[1] - roof_x[0]) - 0.06, roof_x[0] + 0.42 * (roof_x[1] - roof_x[0]) + 0.06),
                (-cabin_w - 0.004, cabin_w + 0.004),
                (belt, height - 0.05),
                paint,
                Surface.PAINT,
                (0.0, 0.0, 0.2),
            ),
            *_wheels((-0.29 * length, 0.3 * length), half_w - 0.01, 0.335, 0.22),
            *_lamps(half_l - 0.035, half_w - 0.05, belt - 0.2, HEADLAMP, 0.17),
            *_lamps(-half_l + 0.025, half_w - 0.04, belt - 0.16, TAILLAMP, 0.15),
        ],
    )


def truck(rng: Generator) -> Model:
    """A box lorry: cab with windscreen, cargo box, chassis, six wheels."""
    length, width, height = _size(rng, 7.2, 2.5, 2.95, 0.09)
    half_l, half_w = length / 2, width / 2
    cab_rear, cab_top = half_l - 1.9, min(height * 0.83, 2.5)
    paint = _pick(rng, CAB_PAINTS)
    return _model(
        "vehicle.truck",
        [
            _block((-half_l + 0.1, half_l - 0.3), (-0.5, 0.5), (0.45, 0.85), DARK),
            _block(
                (-half_l, cab_rear - 0.15), (-half_w, half_w), (0.85, height), _pick(rng, CARGO_PAINTS), Surface.PANELS
            ),
            _block((cab_rear, half_l), (-half_w * 0.95, half_w * 0.95), (0.4, 1.3), paint, Surface.PAINT),
            _block(
                (cab_rear, half_l),
                (-half_w * 0.95, half_w * 0.95),
                (1.3, cab_top - 0.2),
                GLASS,
                Surface.GLASS,
                (0.2, 0, 0.05),
            ),
            _block(
                (cab_rear, half_l - 0.2),
                (-half_w * 0.92, half_w * 0.92),
                (cab_top - 0.25, cab_top),
                paint,
                Surface.PAINT,
            ),
            _block((cab_rear, cab_rear + 0.5), (-half_w * 0.96, half_w * 0.96), (1.2, cab_top), paint, Surface.PAINT),
            *_wheels((half_l - 1.0, -0.2 * length, -0.2 * length - 1.1), half_w * 0.96, 0.48, 0.3),
            *_lamps(half_l - 0.01, half_w * 0.9, 0.75, HEADLAMP, 0.2),
            *_lamps(-half_l + 0.02, half_w, 0.75, TAILLAMP, 0.16),
        ],
    )


def bus(rng: Generator) -> Model:
    """A city bus: one tall body with a band of windows, a windscreen and a sign."""
    length, width, height = _size(rng, 11.0, 2.85, 3.4, 0.05)
    half_l, half_w = length / 2, width / 2
    paint = _pick(rng, BUS_PAINTS)
    stripe = _vector(np.clip(np.array(paint) * 0.4 + 0.45, 0, 0.9))
    return _model(
        "vehicle.bus.rigid",
        [
            _block((-half_l, half_l), (-half_w + 0.02, half_w - 0.02), (0.32, 1.35), paint, Surface.PAINT),
            _block(
                (-half_l, half_l), (-half_w + 0.01, half_w - 0.01), (1.28, 2.6), GLASS, Surface.GLASS, (0.01, 0.0, 0.01)
            ),
            _block((-half_l, half_l), (-half_w + 0.02, half_w - 0.02), (2.55, height - 0.22), stripe, Surface.PAINT),
            _block(
                (-0.35 * length, 0.1 * length),
                (-0.8, 0.8),
                (height - 0.25, height),
                stripe,
                Surface.MATT,
                (0.1, 0.1, 0.1),
            ),
            *(
                _block((x - 0.08, x + 0.08), (-half_w, half_w), (1.25, 2.6), paint, Surface.PAINT)
                for x in np.linspace(-half_l + 0.1, half_l - 1.3, 6)
            ),
            _block((half_l - 0.05, half_l + 0.02), (-0.9, 0.9), (2.65, 2.98), (0.9, 0.55, 0.1), Surface.LAMP),
            *_wheels((-0.27 * length, 0.31 * length), half_w, 0.5, 0.3),
            *_lamps(half_l, half_w - 0.1, 0.75, HEADLAMP, 0.2),
            *_lamps(-half_l, half_w - 0.1, 1.0, TAILLAMP, 0.2),
        ],
    )


def trailer(rng: Generator) -> Model:
    """A semi-trailer: a long box on a chassis, a rear axle group, landing legs, under-run bar."""
    length, width, height = _size(rng, 11.5, 2.75, 3.8, 0.07)
    half_l, half_w = length / 2, width / 2
    rear = -half_l + 1.4
    return _model(
        "vehicle.trailer",
        [
            _block((-half_l, half_l), (-half_w, half_w), (1.15, height), _pick(rng, CARGO_PAINTS), Surface.PANELS),
            _block((-half_l + 0.1, half_l - 0.4), (-0.55, 0.55), (0.8, 1.15), DARK),
            _block(
                (-half_l + 0.02, -half_l + 0.12), (-half_w * 0.9, half_w * 0.9), (0.5, 0.66), TAILLAMP, Surface.LAMP
            ),
            *(
                _block((half_l - 2.6, half_l - 2.4), (y - 0.08, y + 0.08), (0.0, 0.85), STEEL)
                for y in (-half_w * 0.6, half_w * 0.6)
            ),
            *_wheels((rear, rear + 1.2, rear + 2.4), half_w * 0.97, 0.5, 0.34),
        ],
    )


def construction_vehicle(rng: Generator) -> Model:
    """An excavator: tracks, turntable, cabin, counterweight, boom, stick and bucket."""
    scale = rng.uniform(0.9, 1.1)
    yellow = _pick(rng, ((0.75, 0.42, 0.02), (0.8, 0.3, 0.02), (0.75, 0.5, 0.05)), 0.08)
    boom = Solid(Primitive.BLOCK, (2.0, 0.1, 2.35), (1.45, 0.17, 0.22), yellow, Surface.PAINT)
    stick = Solid(Primitive.BLOCK, (3.3, 0.1, 1.85), (0.16, 0.14, 1.15), yellow, Surface.PAINT)
    solids = [
        *(
            _block((-1.9, 1.9), (y - 0.3, y + 0.3), (0.0, 0.85), BLACK, Surface.RUBBER, (0.07, 0.07, 0))
            for y in (-1.05, 1.05)
        ),
        _block((-1.2, 1.2), (-0.8, 0.8), (0.4, 1.0), DARK),
        _block((-2.2, 1.2), (-1.3, 1.3), (0.95, 1.5), yellow, Surface.PAINT),
        _block((-2.3, -0.6), (-1.3, 1.3), (1.45, 2.15), yellow, Surface.PAINT, (0.15, 0.1, 0.05)),
        _block((-0.35, 1.15), (0.35, 1.3), (1.45, 2.85), GLASS, Surface.GLASS, (0.2, 0.0, 0.08)),
        _block((-0.45, 0.95), (0.3, 1.3), (2.8, 2.95), yellow, Surface.PAINT),
        turned(boom, pitch_rad=-0.45),
        turned(stick, pitch_rad=-0.25),
        _block((3.0, 3.8), (-0.4, 0.6), (0.25, 0.95), STEEL, Surface.MATT, (0.3, 0.5, 0)),
    ]
    return _model("vehicle.construction", [_scaled(solid, scale) for solid in solids])


def _scaled(solid: Solid, factor: float) -> Solid:
    return replace(
        solid,
        centre_m=_vector(np.array(solid.centre_m) * factor),
        half_m=_vector(np.array(solid.half_m) * factor),
    )


def _limb(start_m: Vector, end_m: Vector, radius_m: float, colour: Colour, taper: float = 0.0) -> Solid:
    """A round bar between two points whose y may differ a little."""
    start, end = np.array(start_m), np.array(end_m)
    along = (end - start) / np.linalg.norm(end - start)
    side = np.cross(along, [1.0, 0.0, 0.0] if abs(along[0]) < 0.9 else [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    return Solid(
        Primitive.ROUND,
        _vector((start + end) / 2),
        (radius_m, radius_m, float(np.linalg.norm(end - start)) / 2),
        colour,
        taper=(taper, 0.0, 0.0),
        rotation_33=np.stack([np.cross(side, along), side, along], axis=1),
    )


def pedestrian(rng: Generator) -> Model:
    """An adult in mid-stride: legs, torso, arms, head, hair."""
    height = rng.uniform(1.58, 1.9)
    hip, shoulder, stride = 0.48 * height, 0.81 * height, rng.uniform(0.12, 0.3)
    coat = _vector(rng.uniform(0.03, 0.75, 3) ** 1.5)
    legs, skin = _pick(rng, TROUSERS), _pick(rng, SKINS)
    hair = _pick(rng, ((0.03, 0.02, 0.015), (0.15, 0.08, 0.03), (0.4, 0.3, 0.15)))
    return _model(
        "human.pedestrian.adult",
        [
            _limb((stride, 0.1, 0.0), (0.0, 0.09, hip), 0.085, legs),
            _limb((-stride, -0.1, 0.0), (0.0, -0.09, hip), 0.085, legs),
            Solid(Primitive.ROUND, (0.0, 0.0, (hip + shoulder) / 2), (0.14, 0.21, (shoulder - hip) / 2 + 0.04), coat),
            _limb((-stride * 0.8, 0.29, hip + 0.05), (0.0, 0.23, shoulder), 0.055, coat),
            _limb((stride * 0.8, -0.29, hip + 0.05), (0.0, -0.23, shoulder), 0.055, coat),
            Solid(Primitive.BALL, (0.02, 0.0, height - 0.13), (0.1, 0.085, 0.12), skin),
            Solid(Primitive.BALL, (-0.01, 0.0, height - 0.095), (0.105, 0.092, 0.095), hair),
        ],
    )


def _rider(rng: Generator, seat_z_m: float, grip: Vector, foot: Vector) -> list[Solid]:
    """A seated rider: legs to the pedals, arms to the handlebar, helmet."""
    jacket, legs = _vector(rng.uniform(0.05, 0.7, 3)), _pick(rng, TROUSERS)
    shoulder = (0.12, 0.0, seat_z_m + 0.56)
    limbs: list[Solid] = []
    for side in (-1, 1):
        knee = (0.28, side * 0.17, seat_z_m - 0.08)
        limbs += [
            _limb((-0.2, side * 0.1, seat_z_m + 0.05), knee, 0.085, legs),
            _limb(knee, (foot[0], side * foot[1], foot[2]), 0.065, legs),
            _limb((0.1, side * 0.2, seat_z_m + 0.52), (grip[0], side * grip[1], grip[2]), 0.055, jacket),
        ]
    torso = Solid(Primitive.ROUND, (-0.06, 0.0, seat_z_m + 0.3), (0.15, 0.21, 0.34), jacket)
    helmet = Solid(
        Primitive.BALL, (shoulder[0] + 0.04, 0.0, shoulder[2] + 0.18), (0.14, 0.12, 0.14), jacket, Surface.PAINT
    )
    return [turned(torso, pitch_rad=0.3), helmet, *limbs]


def motorcycle(rng: Generator, with_rider: bool = True) -> Model:
    """A motorcycle: fat wheels, tank, engine, seat, fork and handlebar."""
    paint = _pick(rng, ((0.6, 0.04, 0.03), (0.05, 0.05, 0.06), (0.05, 0.15, 0.5), (0.7, 0.45, 0.02)))
    solids = [
        *_wheels((-0.7, 0.72), 0.08, 0.32, 0.16)[::2],
        _block((-0.4, 0.4), (-0.16, 0.16), (0.3, 0.68), STEEL, Surface.PAINT, (0.2, 0.2, 0.1)),
        Solid(Primitive.BALL, (0.2, 0.0, 0.82), (0.33, 0.17, 0.17), paint, Surface.PAINT),
        _block((-0.85, 0.0), (-0.14, 0.14), (0.68, 0.82), BLACK, Surface.MATT, (0.1, 0.3, 0.1)),
        _limb((0.72, 0.0, 0.32), (0.45, 0.0, 1.02), 0.06, STEEL),
        _limb((0.42, -0.38, 1.04), (0.42, 0.38, 1.04), 0.03, BLACK),
        Solid(Primitive.BALL, (0.58, 0.0, 0.88), (0.1, 0.1, 0.1), HEADLAMP, Surface.LAMP),
        Solid(Primitive.BLOCK, (-0.88, 0.0, 0.74), (0.03, 0.08, 0.05), TAILLAMP, Surface.LAMP),
    ]
    if with_rider:
        solids += _rider(rng, 0.82, (0.4, 0.34, 1.04), (0.1, 0.2, 0.35))
    scale = rng.uniform(0.95, 1.05)
    return _model("vehicle.motorcycle", [_scaled(solid, scale) for solid in solids])


def bicycle(rng: Generator, with_rider: bool = True) -> Model:
    """A bicycle: thin wheels, a frame of tubes, saddle and handlebar."""
    paint = _pick(rng, ((0.1, 0.5, 0.5), (0.7, 0.1, 0.1), (0.1, 0.1, 0.1), (0.6, 0.6, 0.1), (0.15, 0.3, 0.7)))
    solids = [
        *_wheels((-0.52, 0.54), 0.025, 0.34, 0.05)[::2],
        _limb((-0.52, 0.0, 0.34), (-0.12, 0.0, 0.32), 0.022, paint),
        _limb((-0.12, 0.0, 0.32), (-0.22, 0.0, 0.86), 0.024, paint),
        _limb((-0.12, 0.0, 0.32), (0.4, 0.0, 0.82), 0.026, paint),
        _limb((-0.2, 0.0, 0.78), (0.4, 0.0, 0.84), 0.024, paint),
        _limb((0.54, 0.0, 0.34), (0.38, 0.0, 0.98), 0.026, STEEL),
        _limb((0.38, -0.3, 1.0), (0.38, 0.3, 1.0), 0.02, BLACK),
        _block((-0.36, -0.1), (-0.08, 0.08), (0.86, 0.93), BLACK, Surface.MATT, (0.6, 0.0, 0.2)),
    ]
    if with_rider:
        solids += _rider(rng, 0.92, (0.38, 0.27, 1.0), (0.0, 0.12, 0.28))
    scale = rng.uniform(0.95, 1.05)
    return _model("vehicle.bicycle", [_scaled(solid, scale) for solid in solids])


def traffic_cone(rng: Generator) -> Model:
    """A cone with white bands on a square foot."""
    height = rng.uniform(0.75, 1.05)
    orange = _pick(rng, ((0.85, 0.2, 0.03),), 0.1)
    shaft = Solid(
        Primitive.ROUND, (0, 0, height / 2), (0.155, 0.155, height / 2 - 0.02), orange, Surface.CONE, (0.8, 0.0, 0.0)
    )
    return _model("movable_object.trafficcone", [_block((-0.2, 0.2), (-0.2, 0.2), (0.0, 0.05), BLACK), shaft])


def barrier(rng: Generator) -> Model:
    """A red and white road barrier; nuScenes' heading is across it, so that w is its long side."""
    width, height = rng.uniform(1.9, 2.5), rng.uniform(0.92, 1.05)
    half = width / 2
    return _model(
        "movable_object.barrier",
        [
            _block((-0.28, 0.28), (-half, half), (0.0, 0.3), STEEL, Surface.MATT, (0.25, 0.25, 0.0)),
            _block((-0.2, 0.2), (-half, half), (0.28, height), (0.75, 0.06, 0.04), Surface.BARRIER, (0.45, 0.45, 0.0)),
        ],
    )


MODELS: Final[dict[str, Callable[[Generator], Model]]] = {
    "car": car,
    "truck": truck,
    "bus": bus,
    "trailer": trailer,
    "construction_vehicle": construction_vehicle,
    "pedestrian": pedestrian,
    "motorcycle": motorcycle,
    "bicycle": bicycle,
    "traffic_cone": traffic_cone,
    "barrier": barrier,
}
"""A maker of every detection class."""


def building(rng: Generator, length_m: float, depth_m: float) -> tuple[Solid, ...]:
    """A block with rows of windows and a parapet; ``length_m`` runs along x."""
    height = float(rng.integers(2, 8)) * 3.2 + 0.8
    walls = ((0.45, 0.3, 0.22), (0.5, 0.47, 0.4), (0.35, 0.36, 0.38), (0.55, 0.45, 0.3), (0.3, 0.2, 0.16))
    wall = _pick(rng, walls)
    x, y = length_m / 2, depth_m / 2
    cornice = _vector(np.array(wall) * 0.7)
    return (
        _block((-x, x), (-y, y), (0.0, height), wall, Surface.FACADE),
        _block((-x - 0.2, x + 0.2), (-y - 0.2, y + 0.2), (height, height + 0.5), cornice),
    )


def tree(rng: Generator) -> tuple[Solid, ...]:
    """A trunk under three balls of leaves."""
    height = rng.uniform(4.5, 7.5)
    leaf = _pick(rng, ((0.06, 0.16, 0.03), (0.1, 0.18, 0.04), (0.2, 0.16, 0.04)))
    crowns = [
        Solid(
            Primitive.BALL,
            _vector([*rng.uniform(-0.5, 0.5, 2), height * share]),
            _vector(rng.uniform(0.9, 1.5, 3)),
            leaf,
            Surface.FOLIAGE,
        )
        for share in (0.62, 0.75, 0.88)
    ]
    return (_limb((0, 0, 0), (0, 0, height * 0.6), 0.14, (0.12, 0.08, 0.05), 0.3), *crowns)


def street_lamp() -> tuple[Solid, ...]:
    """A pole with an arm over the road, which lies at −y."""
    return (
        _limb((0, 0, 0), (0, 0, 6.5), 0.09, STEEL, 0.3),
        _limb((0, 0, 6.4), (0, -1.6, 6.6), 0.05, STEEL),
        _block((-0.12, 0.12), (-1.9, -1.3), (6.5, 6.65), STEEL),
    )
