"""Tiny networks of timm's transformer classes, under names that timm knows in this process."""
from __future__ import annotations

from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM

SMALL = dict(embed_dim=24, num_heads=2, depth=2)
KINDS = {
    "wilson_tiny_dinov2": (VisionTransformer, dict(SMALL, img_size=70, patch_size=14, reg_tokens=4, init_values=0.1,
                                                   no_embed_class=True)),
    "wilson_tiny_sam": (VisionTransformerSAM, dict(SMALL, img_size=64, patch_size=16, window_size=3, global_attn_indexes=(1,),
                                                   use_rel_pos=True, neck_chans=20)),
    "wilson_tiny_swin": (SwinTransformer, dict(img_size=64, embed_dim=12, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4),
                                               window_size=4)),
}
ABOUT = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # what timm's own builders take away


def register(name: str, kind: type, options: dict) -> None:
    "Let `timm.create_model(name)` build the network."
    def build(pretrained=False, **more):
        model = kind(**options, **{key: value for key, value in more.items() if key not in ABOUT})
        model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        return model
    build.__name__, build.__module__ = name, __name__
    register_model(build)


for _name, (_kind, _options) in KINDS.items():
    register(_name, _kind, _options)
