"""Recipes: each a function that returns one complete configuration. Variants call one and replace fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from udx.data.augment import AugmentationConfig, BevAugmentation, ImageAugmentation
from udx.data.spec import CameraSpec, LidarSpec, Modality, SensorSpec
from udx.geometry import BevGrid, Frustum
from udx.models.bev_encoder import BevEncoderConfig
from udx.models.camera import CameraEncoderConfig
from udx.models.center_head import CenterHeadConfig
from udx.models.detection_loss import DetectionLossConfig
from udx.models.detector import DetectorConfig
from udx.models.lidar import LidarEncoderConfig
from udx.ranges import require_range
from udx.train.methods import DistillationConfig, unidistill

MAX_EPOCHS: Final = 1_000_000
MAX_BATCH: Final = 4096
MAX_WORKERS: Final = 256
MAX_SEED: Final = 2**31 - 1
"""What NumPy and torch both take as a seed, with the number of a process added to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserConfig:
    """AdamW under a schedule of its learning rate.

    ``one_cycle``: linear warm-up over ``warmup`` of all steps, cosine down to 0. ``steps``: a tenth of the rate after
    each of ``drops``, shares of the training. ``clip_norm``: largest norm of the gradients.
    """

    learning_rate: float
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip_norm: float = 10.0
    schedule: Literal["one_cycle", "steps"] = "one_cycle"
    drops: tuple[float, ...] = (0.5, 0.75)

    def __post_init__(self) -> None:
        require_range(at_least=0, at_most=1e3, learning_rate=self.learning_rate)
        require_range(at_least=0, at_most=1e3, weight_decay=self.weight_decay)
        require_range(at_least=0, below=1, warmup=self.warmup)
        require_range(above=0, at_most=1e9, clip_norm=self.clip_norm)
        if not all(0 < drop < 1 for drop in self.drops):
            raise ValueError(f"the rate drops after shares of the training between 0 and 1, not {list(self.drops)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How long and on what: ``batch_size`` a process; ``seed`` of everything.

    ``accumulate``: how many batches of that size make one step: as one batch of all would, they share what losses are
    divided by, and only batch norms (and objectives that compare the objects of a batch) see each apart.

    ``precision`` is accelerate's name of the type that convolutions compute in; ``auto`` becomes ``bf16`` where the
    machine has instructions for it, else ``no`` (FP32), before anything is trained or recorded. Weights stay FP32.

    ``class_balanced``: an epoch holds keyframes of all classes alike (CBGS), in place of each keyframe once.
    ``channels_last``: the weights of convolutions lie in memory as GPUs and newer CPUs compute; ``compile``: encoder
    of the images, BEV encoder and head are compiled, which takes minutes once; ``recompute``: their activations are
    computed again in the backward pass instead of kept, for less memory and about a third more time.
    ``ema_decay``: of the moving average of weights that is evaluated and shipped; 0: the last step's weights are.

    A checkpoint is written every ``checkpoint_every_s`` seconds, on Ctrl-C and SIGTERM, and at the end; beside it
    stand the weights after the last ``keep_epochs`` epochs. The validation split is evaluated after the last epoch
    and after every ``validate_every`` (0: no others); then the best epoch is kept, too, and ``pictures`` keyframes
    are drawn for TensorBoard. Under distillation the gradient norm of each loss term is logged every
    ``gradient_norms_every`` steps, at a backward pass a term; 0: never.
    """

    epochs: int
    batch_size: int
    optimiser: OptimiserConfig
    augmentation: AugmentationConfig | None
    precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    workers: int = 1
    seed: int = 0
    checkpoint_every_s: float = 300.0
    gradient_norms_every: int = 50
    channels_last: bool = False
    compile: bool = False
    recompute: bool = False
    class_balanced: bool = False
    ema_decay: float = 0.0
    keep_epochs: int = 0
    validate_every: int = 0
    pictures: int = 2
    accumulate: int = 1

    def __post_init__(self) -> None:
        require_range(at_least=1, at_most=MAX_EPOCHS, epochs=self.epochs)
        require_range(at_least=1, at_most=MAX_BATCH, batch_size=self.batch_size)
        require_range(at_least=1, at_most=MAX_BATCH, accumulate=self.accumulate)
        require_range(at_least=0, at_most=MAX_WORKERS, workers=self.workers)
        require_range(at_least=0, at_most=MAX_SEED, seed=self.seed)
        require_range(at_least=0, checkpoint_every_s=self.checkpoint_every_s)
        for name in ("gradient_norms_every", "keep_epochs", "validate_every", "pictures"):
            require_range(at_least=0, **{name: getattr(self, name)})
        require_range(at_least=0, below=1, ema_decay=self.ema_decay)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that a training run depends on but its data, its teacher and its start."""

    recipe: str
    detector: DetectorConfig
    train: TrainConfig
    loss: DetectionLossConfig
    distillation: DistillationConfig


def nano(modality: Modality) -> RunConfig:
    """Two CPU cores and minutes: 128 × 352 images, 0.8 m cells."""
    grid = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)
    frustum = Frustum(
        image_height_px=128, image_width_px=352, stride_px=16, depth_min_m=2.0, depth_step_m=1.0, depth_bins=56
    )
    return RunConfig(
        recipe="nano",
        detector=DetectorConfig(
            spec=_sensors(modality, grid, frustum, LidarSpec(sweeps=1, max_points=36_000)),
            camera=CameraEncoderConfig(
                backbone="resnet",
                settings={
                    "layer_type": "basic",
                    "embedding_size": 24,
                    "hidden_sizes": [24, 48, 96, 128],
                    "depths": [1, 1, 1, 1],
                    "out_features": ["stage2", "stage3", "stage4"],
                },
                neck_channels=48,
                context_channels=48,
            ),
            lidar=LidarEncoderConfig(pillar_channels=32, pillars_per_cell=2),
            low_channels=48,
            bev_encoder=BevEncoderConfig(
                channels=(64, 128), strides=(2, 2), convolutions=(2, 2), out_channels=(32, 32)
            ),
            head=CenterHeadConfig(shared_channels=32, task_channels=12),
            max_boxes=200,
        ),
        train=TrainConfig(
            epochs=8,
            batch_size=2,
            optimiser=OptimiserConfig(learning_rate=2e-3),
            augmentation=None,  # minutes are too few to learn by heart
        ),
        loss=DetectionLossConfig(depth=1.0),
        # So few steps bear only a light hand, and the most of what can be gained in them is inherited: see
        # benchmarks/distill_gain.py.
        distillation=unidistill(feature=0.1, relation=0.03, response=0.05, inherit="all"),
    )


def small(modality: Modality) -> RunConfig:
    """One GPU and minutes: ResNet-18 at 256 × 704, 0.8 m cells."""
    grid = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)
    return RunConfig(
        recipe="small",
        detector=DetectorConfig(
            spec=_sensors(
                modality, grid, _full_frustum(depth_bins=56, step_m=1.0), LidarSpec(sweeps=5, max_points=150_000)
            ),
            camera=CameraEncoderConfig(
                backbone="resnet",
                settings={
                    "layer_type": "basic",
                    "hidden_sizes": [64, 128, 256, 512],
                    "depths": [2, 2, 2, 2],
                    "out_features": ["stage2", "stage3", "stage4"],
                },
                neck_channels=96,
                context_channels=80,
            ),
            lidar=LidarEncoderConfig(pillar_channels=64, pillars_per_cell=2),
            low_channels=96,
            bev_encoder=BevEncoderConfig(
                channels=(96, 192), strides=(1, 2), convolutions=(3, 3), out_channels=(96, 96)
            ),
            head=CenterHeadConfig(shared_channels=64, task_channels=32),
            max_boxes=300,
        ),
        train=TrainConfig(
            epochs=12,
            batch_size=8,
            optimiser=OptimiserConfig(learning_rate=1e-3),
            augmentation=_paper_augmentation(),
            workers=8,
            validate_every=4,
            channels_last=True,
        ),
        loss=DetectionLossConfig(depth=1.0),
        distillation=unidistill(inherit="all"),
    )


def base(modality: Modality) -> RunConfig:
    """UniDistill's setting: ResNet-50 at 256 × 704, ±54 m in cells of 0.6 m, ten sweeps, 20 epochs of CBGS.

    Where the paper is silent, the authors' released code decides: augmentation, the rate's drops after half and three
    quarters, weight decay, clipping. One process takes 5 samples a step; four of them make the paper's batch of 20.
    Different from both:

    - LiDAR: dynamic pillars of 0.3 m in place of sparse convolutions on voxels of 0.075 m, and no cap on a pillar's
      points; 350,000 points a sample.
    - Head: CenterPoint's Gaussian targets, one peak a box, in place of nine positives, the IoU branch, its loss and
      learned task weights; peaks are decoded without NMS.
    - Stem and batch norms of the image backbone are trained, the neck is bilinear, boxes count by their centre.
    - Rate: the paper's (camera 2e-4, LiDAR and fusion 1e-4); the released code has 1e-3 for the latter two.
    - Distillation at shares of the detection loss; ``--method paper`` has the paper's factors.
    """
    grid = BevGrid(-54.0, 54.0, -54.0, 54.0, 0.6)
    return RunConfig(
        recipe="base",
        detector=DetectorConfig(
            spec=_sensors(
                modality, grid, _full_frustum(depth_bins=112, step_m=0.5), LidarSpec(sweeps=10, max_points=350_000)
            ),
            camera=CameraEncoderConfig(
                backbone="resnet",
                settings={"out_features": ["stage1", "stage2", "stage3", "stage4"]},
                pretrained="microsoft/resnet-50",
                neck_channels=128,
                context_channels=256,
            ),
            lidar=LidarEncoderConfig(pillar_channels=64, pillars_per_cell=2),
            low_channels=256,
            bev_encoder=BevEncoderConfig(
                channels=(128, 256), strides=(1, 2), convolutions=(5, 5), out_channels=(256, 256)
            ),
            head=CenterHeadConfig(shared_channels=64, task_channels=64),
            max_boxes=500,
        ),
        train=TrainConfig(
            epochs=20,
            batch_size=5,
            optimiser=OptimiserConfig(
                learning_rate=2e-4 if modality == "cam" else 1e-4, weight_decay=1e-7, clip_norm=0.1, schedule="steps"
            ),
            augmentation=_paper_augmentation(),
            workers=8,
            class_balanced=True,
            validate_every=4,
            keep_epochs=2,
            channels_last=True,
        ),
        loss=DetectionLossConfig(),
        distillation=unidistill(),
    )


def modern(modality: Modality) -> RunConfig:
    """``base`` as camera detectors are trained since BEVDepth (Li et al., AAAI 2023): a student that is worth teaching.

    The LiDAR supervises the cameras' depth; the image backbone is ConvNeXt-T; training is longer (24 epochs of CBGS,
    8 samples a process), under one cycle of the rate with real weight decay; what is evaluated and shipped is the
    moving average of the weights. BEVDepth's own depth net, which reads the calibration, is not in it.
    """
    config = base(modality)
    return replace(
        config,
        recipe="modern",
        detector=replace(
            config.detector,
            camera=replace(
                config.detector.camera,
                backbone="convnext",
                settings={
                    **config.detector.camera.settings,
                    "hidden_sizes": [96, 192, 384, 768],
                    "depths": [3, 3, 9, 3],
                },
                pretrained="facebook/convnext-tiny-224",
            ),
        ),
        train=replace(
            config.train,
            epochs=24,
            batch_size=8,
            optimiser=OptimiserConfig(learning_rate=2e-4 if modality == "cam" else 1e-3, clip_norm=5.0),
            ema_decay=0.999,
        ),
        loss=DetectionLossConfig(depth=3.0),
        distillation=unidistill(inherit="bev"),
    )


def modern_swin(modality: Modality) -> RunConfig:
    """``modern`` with Swin-T as image backbone."""
    config = modern(modality)
    camera = replace(
        base(modality).detector.camera, backbone="swin", pretrained="microsoft/swin-tiny-patch4-window7-224"
    )
    return replace(config, recipe="modern-swin", detector=replace(config.detector, camera=camera))


RECIPES: Final[Mapping[str, Callable[[Modality], RunConfig]]] = {
    "nano": nano,
    "small": small,
    "base": base,
    "modern": modern,
    "modern-swin": modern_swin,
}


def _sensors(modality: Modality, grid: BevGrid, frustum: Frustum, lidar: LidarSpec) -> SensorSpec:
    return SensorSpec(
        grid=grid,
        z_range_m=(-3.0, 5.0),
        camera=CameraSpec(frustum=frustum) if modality != "lidar" else None,
        lidar=lidar if modality != "cam" else None,
    )


def _full_frustum(depth_bins: int, step_m: float) -> Frustum:
    return Frustum(
        image_height_px=256,
        image_width_px=704,
        stride_px=16,
        depth_min_m=2.0,
        depth_step_m=step_m,
        depth_bins=depth_bins,
    )


def _paper_augmentation() -> AugmentationConfig:
    return AugmentationConfig(
        image=ImageAugmentation(
            resize=(0.88, 1.25), shift_x=(-0.1, 0.1), flip_probability=0.5, rotation_rad=(-0.094, 0.094)
        ),
        bev=BevAugmentation(
            mirror_x_probability=0.5,
            mirror_y_probability=0.5,
            rotation_rad=(-0.785, 0.785),
            scale=(0.9, 1.1),
            translation_std_m=(0.5, 0.5, 0.5),
        ),
    )
