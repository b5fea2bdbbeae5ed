"""Camera encoder: images to the low BEV map by lift-splat.

Depth distribution and pooling follow Philion and Fidler, "Lift, Splat, Shoot" (ECCV 2020).
Legend: B batch, N cameras, D depth bins, h w feature rows and columns, C channels, H W grid rows and columns.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import torch
from jaxtyping import Int, Real
from torch import Tensor, nn
from torch.nn import functional as F

from udx.data.spec import CameraSpec
from udx.errors import UdxError
from udx.geometry import BevGrid
from udx.models.blocks import MAX_CHANNELS, conv_bn_relu
from udx.models.taps import EncoderTaps
from udx.ops import bev_pool
from udx.ranges import require_range

IMAGE_MEAN: Final = (123.675, 116.28, 103.53)
IMAGE_STD: Final = (58.395, 57.12, 57.375)
"""ImageNet's RGB statistics, which pretrained backbones expect."""


ATTENTION: Final = "eager"
BACKBONES: Final = frozenset({"resnet", "convnext", "convnextv2", "swin", "swinv2", "dinov2", "dinov2_with_registers"})
"""Architectures of the transformers library that a camera encoder may have; all have ``feature_maps``."""

SETTINGS: Final = frozenset(
    {
        *("depths", "hidden_sizes", "hidden_size", "embedding_size", "embed_dim", "layer_type", "hidden_act"),
        *("downsample_in_first_stage", "downsample_in_bottleneck", "patch_size", "image_size", "num_stages"),
        *("layer_norm_eps", "layer_scale_init_value", "layerscale_value", "initializer_range", "drop_path_rate"),
        *("num_heads", "num_attention_heads", "num_hidden_layers", "window_size", "mlp_ratio", "qkv_bias"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "use_absolute_embeddings", "encoder_stride"),
        *("pretrained_window_sizes", "use_swiglu_ffn", "use_mask_token", "num_register_tokens"),
        *("reshape_hidden_states", "apply_layernorm", "out_features", "out_indices"),
    }
)
"""What ``settings`` may hold: the shape of the network and no more. The transformers library takes other fields that
load code or files, as ``attn_implementation`` does, and a checkpoint may come from a stranger."""

SIZES: Final = frozenset(
    {
        *("depths", "hidden_sizes", "hidden_size", "embedding_size", "embed_dim", "patch_size", "image_size"),
        *("num_stages", "num_heads", "num_attention_heads", "num_hidden_layers", "window_size"),
    }
)
"""Settings that count something."""

MAX_BLOCKS: Final = 256
MAX_SETTING: Final = 8192
MAX_ENTRIES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraEncoderConfig:
    """A backbone of the transformers library, and the widths behind it.

    ``backbone`` names the architecture (``resnet``, ``convnext``, ``swin``, ``dinov2``, …) and ``settings``
    are its configuration's fields, ``out_features`` the stages that the neck reads. ``pretrained`` is a
    local folder or hub name to take the backbone's weights from (safetensors only).
    """

    backbone: str
    settings: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    neck_channels: int
    context_channels: int

    def __post_init__(self) -> None:
        widths = {"neck_channels": self.neck_channels, "context_channels": self.context_channels}
        require_range(at_least=1, at_most=MAX_CHANNELS, **widths)
        if self.backbone not in BACKBONES:
            raise ValueError(f"there is no backbone {self.backbone!r}; choose one of {', '.join(sorted(BACKBONES))}")
        for name, value in self.settings.items():
            if name not in SETTINGS:
                raise ValueError(
                    f"{name!r} is no setting of a backbone's architecture; those are {', '.join(sorted(SETTINGS))}"
                )
            _require_small(name, value)
        depths = self.settings.get("depths", [])
        if isinstance(depths, list | tuple) and all(isinstance(depth, int) for depth in depths):
            require_range(at_most=MAX_BLOCKS, blocks=sum(depths))


class CameraEncoder(nn.Module):
    """Backbone, neck, depth distribution and context, pooled onto the BEV grid."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: CameraEncoderConfig, spec: CameraSpec, grid: BevGrid, low_channels: int) -> None:
        super().__init__()
        self.frustum = spec.frustum
        self.grid = grid
        self.context_channels = config.context_channels
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD), persistent=False)
        self.backbone: Any = build_backbone(config)
        self.lateral = nn.ModuleList(
            conv_bn_relu(channels, config.neck_channels, kernel=1) for channels in self.backbone.channels
        )
        self.neck_channels = config.neck_channels * len(self.backbone.channels)
        self.depth_and_context = nn.Conv2d(self.neck_channels, spec.frustum.depth_bins + config.context_channels, 1)
        self.to_low = conv_bn_relu(config.context_channels, low_channels)

    def forward(
        self,
        images_BNHW3: Real[Tensor, "B N H W 3"],
        pool_index_BP: Int[Tensor, "B P"],
        pool_offsets: Int[Tensor, "B cells1"],
    ) -> EncoderTaps:
        """Yield low BEV map, feature maps and depth logits from images of bytes, or of their values as numbers.

        The pooling plan is the calibration of every sample.
        """
        cameras = images_BNHW3.shape[:2]
        neck = self.neck(images_BNHW3)
        features_BNFhw = self.depth_and_context(neck).unflatten(0, cameras)
        depth_logits, context = features_BNFhw.split([self.frustum.depth_bins, self.context_channels], dim=2)
        depth_BNDhw, context_BNhwC = depth_logits.softmax(dim=2), context.permute(0, 1, 3, 4, 2)
        pooled = bev_pool(depth_BNDhw.contiguous(), context_BNhwC.contiguous(), pool_index_BP, pool_offsets)
        low = self.to_low(pooled.transpose(1, 2).unflatten(2, self.grid.shape))
        return EncoderTaps(low_BCHW=low, perspective_BNChw=neck.unflatten(0, cameras), depth_BNDhw=depth_logits)

    def neck(self, images_BNHW3: Tensor) -> Tensor:
        """Features (B·N, ``neck_channels`` of all levels, h, w) of all images."""
        pixels = (images_BNHW3.flatten(0, 1).to(self.mean.dtype) - self.mean) / self.std
        levels = self.backbone(pixels.permute(0, 3, 1, 2)).feature_maps
        size = self.frustum.feature_shape
        lateral = [
            F.interpolate(conv(level), size=size, mode="bilinear", align_corners=False)
            for conv, level in zip(self.lateral, levels, strict=True)
        ]
        return torch.cat(lateral, dim=1)


def build_backbone(config: CameraEncoderConfig) -> Any:
    """Build the transformers backbone; its ``channels`` and ``feature_maps`` are all that is used of it.

    The architecture is that of ``backbone`` and ``settings`` alone, so that a checkpoint needs no pretrained weights.

    Raises:
        UdxError: the pretrained weights are neither a local folder nor on the hub, or are of another architecture.
    """
    from transformers import AutoBackbone, AutoConfig

    settings = AutoConfig.for_model(config.backbone, **config.settings)
    # Attention as plain matrix products: torch cannot export its fused form of Swin's windows to ONNX.
    backbone = AutoBackbone.from_config(settings, attn_implementation=ATTENTION)
    if config.pretrained is None:
        return backbone
    try:
        backbone, loading = type(backbone).from_pretrained(
            config.pretrained,
            config=settings,
            use_safetensors=True,
            output_loading_info=True,
            attn_implementation=ATTENTION,
        )
    except RuntimeError as error:
        raise _other_architecture(config, str(error).splitlines()[0]) from error
    except Exception as error:  # of the file system, the hub's client or its network: they have no name in common
        raise UdxError(
            f"there are no weights {config.pretrained!r}, neither as a local folder with config.json and "
            "model.safetensors nor on the hub as seen from here; name a folder with --set "
            "detector.camera.pretrained=FOLDER, or begin without any with --set detector.camera.pretrained=null"
        ) from error
    # The norms of the stages' outputs are the backbone's own, and in no classifier.
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("hidden_states_norms"))
    if missing:
        raise _other_architecture(config, f"{missing[0]} is missing")
    return backbone


def _require_small(name: str, value: Any) -> None:
    """Raise ``ValueError`` unless a setting is a word, a number of bounded size, or a short list of these."""
    if isinstance(value, list | tuple):
        require_range(at_most=MAX_ENTRIES, **{f"entries of {name}": len(value)})
        for entry in value:
            if isinstance(entry, list | tuple):
                raise ValueError(f"{name} must be a list of numbers or words, not {value!r:.80}")
            _require_small(name, entry)
    elif isinstance(value, int | float):
        least = 1 if name in SIZES else -MAX_SETTING
        most = MAX_BLOCKS if name in ("depths", "num_hidden_layers") else MAX_SETTING
        require_range(at_least=least, at_most=most, **{name: value})
    elif not isinstance(value, str | None):
        raise ValueError(f"{name} must be a number, a word or a list of these, not {value!r:.80}")


def _other_architecture(config: CameraEncoderConfig, detail: str) -> UdxError:
    return UdxError(
        f"the weights {config.pretrained!r} are not those of the {config.backbone} that detector.camera.settings "
        f"describe ({detail}); bring one in line with the other"
    )
