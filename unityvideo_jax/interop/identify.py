"""Recognition of files of weights by the names and types of their tensors."""

import collections
import re
from collections.abc import Iterable, Mapping
from typing import Any

T5, VAE = "a T5 or UMT5 text encoder", "an autoencoder (VAE)"
WAN = "a Wan transformer"
# Adapters: their description, and the name that only they have.
ADAPTERS = (
    ("a LoRA in PEFT's and diffusers' layout", r"\.lora_A\."),
    ("a LoRA in Kohya's and ComfyUI's layout", r"\.lora_down\."),
    ("a LoRA in diffusers' older layout", r"[._]lora(_linear_layer)?\.down\."),
    ("a LoHa adapter", r"\.hada_w1_a$"),
    ("a LoKr adapter", r"\.lokr_w1(_a)?$"),
    ("an adapter of differences to weights", r"\.diff(_b)?$"),
)
# Quantised checkpoints, likewise.
QUANTISED = (
    ("4 bits by bitsandbytes (nf4 or fp4)", r"\.quant_state\.bitsandbytes__|\.quant_map$"),
    ("8 bits by bitsandbytes", r"\.SCB$"),
    ("fp8 with scales", r"^scaled_fp8$|\.(scale_weight|weight_scale|scale_input)$"),
    ("4 bits by SVDQuant (Nunchaku)", r"\.(wscales|smooth_orig)$"),
    ("integers by GPTQ", r"\.g_idx$"),
    ("integers by AWQ or GPTQ", r"\.qweight$"),
    ("integers by quanto", r"\._data$"),
    ("by ComfyUI", r"\.comfy_quant$"),
)
# Other models: their description, and patterns that all must be found. The first that fits counts.
MODELS = (
    ("a ControlNet", (r"(^|\.)(input_hint_block|controlnet_cond_embedding)\.",)),
    (
        "a whole Stable Diffusion checkpoint",
        (r"^model\.diffusion_model\.input_blocks\.", r"^first_stage_model\."),
    ),
    ("a Stable Diffusion UNet", (r"(^|\.)input_blocks\.", r"(^|\.)output_blocks\.")),
    ("a diffusers UNet", (r"^down_blocks\.", r"^up_blocks\.", r"^time_embedding\.")),
    ("a HunyuanVideo transformer", (r"double_blocks\.\d+\.img_attn_qkv\.",)),
    (
        "a HunyuanVideo transformer",
        (r"single_transformer_blocks\.", r"context_embedder\.token_refiner\."),
    ),
    ("a Flux transformer", (r"double_blocks\.\d+\.img_attn\.", r"single_blocks\.")),
    ("a Flux transformer", (r"(^|\.)transformer_blocks\.", r"single_transformer_blocks\.")),
    ("a Stable Diffusion 3 transformer", (r"(^|\.)joint_blocks\.",)),
    (
        "a Stable Diffusion 3 transformer",
        (r"transformer_blocks\.\d+\.attn\.add_q_proj", r"pos_embed\."),
    ),
    ("a CogVideoX transformer", (r"transformer_blocks\.", r"patch_embed\.text_proj\.")),
    ("an LTX-Video transformer", (r"transformer_blocks\.", r"(caption_projection|patchify_proj)")),
    ("a Qwen-Image transformer", (r"transformer_blocks\.", r"(^|\.)txt_norm\.")),
    ("a transformer of another architecture", (r"(^|\.)transformer_blocks\.\d+\.",)),
    ("a Wan VACE transformer", (r"(^|\.)vace_(blocks|patch_embedding)\.",)),
    ("a Wan image-to-video transformer of CLIP images", (r"(^|\.)(img_emb|image_embedder)\.",)),
    ("a CLIP model", (r"(^|\.)(text_model|vision_model)\.encoder\.layers\.",)),
    ("a CLIP model", (r"(^|\.)transformer\.resblocks\.",)),
    (T5, (r"(^|\.)encoder\.block\.\d+\.layer\.\d+\.SelfAttention\.",)),
    (T5, (r"(^|\.)token_embedding\.weight$", r"(^|\.)blocks\.\d+\.pos_embedding\.")),
    ("a language model", (r"embed_tokens\.", r"layers\.\d+\.self_attn\.q_proj\.")),
    (VAE, (r"(^|\.)decoder\.", r"(quant_conv|conv_in|conv1|middle\.\d)\.")),
    (WAN, (r"(^|\.)blocks\.\d+\.(self_attn|attn1)\.",)),
)


def describe(tensors: Mapping[str, Any]) -> str | None:
    """Describes these weights, for "is ..."; None if their names do not show it.

    Args:
      tensors: with `shape` and `kind`, by name.
    """
    return adapter(tensors) or quantised(tensors) or model(tensors)


def adapter(tensors: Mapping[str, Any], *, short: bool = False) -> str | None:
    """Describes an adapter to a model's weights, with its rank; None for a model's own.

    Args:
      tensors: with `shape`, by name.
      short: leave out what an adapter is.
    """
    for what, pattern in ADAPTERS:
        ranks = [t.shape[:1] for name, t in tensors.items() if re.search(pattern, name)]
        if ranks:
            counted = collections.Counter(rank[0] for rank in ranks if rank)
            # The rank is the first axis of what projects down, in all layouts of LoRA.
            rank = f" of rank {counted.most_common(1)[0][0]}" if counted and "LoRA" in what else ""
            why = (
                "" if short else ", which changes another checkpoint's weights and has none itself"
            )
            return f"{what}{rank}{why}"
    return None


def quantised(tensors: Mapping[str, Any]) -> str | None:
    """Describes the quantisation of a checkpoint; None if there is none."""
    for how, pattern in QUANTISED:
        if any(re.search(pattern, name) for name in tensors):
            return f"quantised ({how})"
    kinds = collections.Counter(
        tensor.kind for name, tensor in tensors.items() if name.endswith("weight")
    )
    small = [kind for kind in kinds if re.match(r"(F8|F6|F4|I8|U8|float8|u?int8)", kind)]
    if small and kinds[small[0]] > sum(kinds.values()) // 2:
        return f"quantised ({small[0]})"
    return None


def model(names: Iterable[str]) -> str | None:
    """The model with such names; None for one that is not known."""
    names = list(names)
    for what, patterns in MODELS:
        if all(any(re.search(pattern, name) for name in names) for pattern in patterns):
            return what
    return None
