"""Models of random weights, saved as transformers saves the real ones."""

import functools
import pathlib
import tempfile

import numpy as np
import torch
import transformers

SIZE = {"height": 64, "width": 64}
_ROOT = tempfile.TemporaryDirectory(prefix="tiny-models-")  # removed when the process ends


def _save(name, *parts):
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_ROOT.name))
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


def _sharpen(kind, config, scale=3.0):
    """A model with larger weights than the initial ones, so that outputs differ from each other.

    The same whatever was drawn before: what keeps its initial numbers is seeded too.
    """
    torch.manual_seed(1)
    model = kind(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, scale / weight[0].numel() ** 0.5)
    return model


@functools.cache
def depth_anything(kind="relative"):
    backbone = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        patch_size=14, image_size=56, reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8, depth_estimation_type=kind, max_depth=20,
    )  # fmt: skip
    processor = transformers.DPTImageProcessor(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    model = _sharpen(transformers.DepthAnythingForDepthEstimation, config, 1.5)
    return _save("depth", model, processor)


@functools.cache
def detector(labels=("person", "dog")):
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1],
        layer_type="basic", out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[8, 8, 8], encoder_hidden_dim=16,
        encoder_ffn_dim=16, encoder_attention_heads=2, d_model=16, num_queries=6,
        decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16, decoder_attention_heads=2,
        decoder_layers=1, num_denoising=0, num_feature_levels=3,
        id2label=dict(enumerate(labels)), label2id={name: n for n, name in enumerate(labels)},
    )  # fmt: skip
    processor = transformers.RTDetrImageProcessor(size=SIZE)
    return _save(
        "detector", _sharpen(transformers.RTDetrForObjectDetection, config, 1.2), processor
    )


@functools.cache
def text_detector():
    """OWL-ViT: boxes for words."""
    text = dict(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=8, bos_token_id=1, eos_token_id=2,
                pad_token_id=0)  # fmt: skip
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                  image_size=64, patch_size=16)  # fmt: skip
    config = transformers.OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
    processor = transformers.OwlViTProcessor(
        image_processor=transformers.OwlViTImageProcessor(size=SIZE, do_center_crop=False),
        tokenizer=_clip_tokenizer(),
    )
    return _save("owl", _sharpen(transformers.OwlViTForObjectDetection, config), processor)


def _clip_tokenizer():
    words = ["<pad>", "<|startoftext|>", "<|endoftext|>", "a", "person", "dog", "<unk>"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=_words(words),
        pad_token="<pad>", bos_token="<|startoftext|>", eos_token="<|endoftext|>",
        unk_token="<unk>", model_max_length=8,
    )  # fmt: skip


def _words(words):
    import tokenizers

    model = tokenizers.models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return tokenizer


@functools.cache
def sam2():
    vision = dict(
        backbone_config=dict(
            model_type="sam2_hiera_det_model", hidden_size=8, num_attention_heads=1,
            image_size=[64, 64], patch_kernel_size=[7, 7], patch_stride=[4, 4],
            patch_padding=[3, 3], blocks_per_stage=[1, 1, 2, 1],
            embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
            window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[3],
            window_positional_embedding_background_size=[4, 4],
        ),
        backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=128,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    config = transformers.Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=dict(hidden_size=128, image_size=64, mask_input_channels=8),
        mask_decoder_config=dict(
            hidden_size=128, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=32,
        ),
        image_size=64, memory_attention_hidden_size=128, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32, memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=128, memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128, memory_fuser_embed_dim=128, num_maskmem=3,
        memory_fuser_intermediate_dim=32, memory_fuser_num_layers=1,
        max_object_pointers_in_encoder=2,
    )  # fmt: skip
    torch.manual_seed(0)
    return _save("sam2", transformers.Sam2VideoModel(config))


@functools.cache
def mask2former(labels=("person", "dog")):
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        dim_feedforward=16, num_queries=5,
        id2label=dict(enumerate(labels)), label2id={name: n for n, name in enumerate(labels)},
    )  # fmt: skip
    processor = transformers.Mask2FormerImageProcessor(size=SIZE, num_labels=len(labels))
    model = _sharpen(transformers.Mask2FormerForUniversalSegmentation, config)
    return _save("mask2former", model, processor)


@functools.cache
def vitpose(joints=17):
    backbone = transformers.VitPoseBackboneConfig(
        image_size=(64, 48), patch_size=(16, 16), hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, mlp_ratio=2, out_features=["stage2"],
    )  # fmt: skip
    config = transformers.VitPoseConfig(
        backbone_config=backbone, num_labels=joints, use_simple_decoder=True,
        id2label={n: str(n) for n in range(joints)}, label2id={str(n): n for n in range(joints)},
    )  # fmt: skip
    processor = transformers.VitPoseImageProcessor(size={"height": 64, "width": 48})
    return _save("vitpose", _sharpen(transformers.VitPoseForPoseEstimation, config), processor)


class _DensePose(torch.nn.Module):
    """A person in the left half, sure, and one in the middle, less sure; 25 charts of 16x16."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        height, width = image.shape[0], image.shape[1]
        ramp = torch.linspace(0.0, 1.0, 16)
        fine = torch.zeros(2, 25, 16, 16)
        fine[0, 3] = 1.0
        fine[1, 7] = 1.0
        coarse = torch.zeros(2, 2, 16, 16)
        coarse[:, 1, :, 4:] = 1.0
        coarse[:, 0, :, :4] = 1.0
        u = ramp.expand(2, 25, 16, 16) * 1.2
        v = ramp[:, None].expand(2, 25, 16, 16)
        boxes = torch.tensor(
            [
                [-8.0, 0.0, width / 2, float(height)],
                [width / 4, height / 2, width * 3 / 4, height + 10.0],
            ]
        )
        return {
            "pred_boxes": boxes,
            "scores": torch.tensor([0.95, 0.8]),
            "pred_densepose_coarse_segm": coarse,
            "pred_densepose_fine_segm": fine,
            "pred_densepose_u": u,
            "pred_densepose_v": v,
        }


@functools.cache
def densepose():
    path = pathlib.Path(tempfile.mkdtemp(prefix="densepose-", dir=_ROOT.name)) / "model.pt"
    torch.jit.script(_DensePose()).save(str(path))
    return str(path)


@functools.cache
def llava():
    """An image-text-to-text model with its processor and chat template."""
    words = ["<unk>", "<s>", "</s>", "<image>", "USER", "ASSISTANT", ":", "a", "man", "walks", "."]
    words += [f"w{n}" for n in range(20)]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_words(words), unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="</s>", additional_special_tokens=["<image>"],
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=16,
    )  # fmt: skip
    text = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
        pad_token_id=2,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1
    )
    template = (
        "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
    )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )
    model = _sharpen(transformers.LlavaForConditionalGeneration, config)
    model.generation_config.suppress_tokens = [0, 1, 2, 3]
    return _save("llava", model, processor)


def frames(count=5, height=48, width=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), np.uint8)
