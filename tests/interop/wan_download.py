"""A download of Wan in either layout: the real architectures, made small by the libraries."""

import json
import pathlib

import torch
import transformers
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from wan_torch import original_names, torch_wan

from unityvideo_jax.interop import umt5, vae
from unityvideo_jax.pretrained.vae import load_vae_config

UMT5_SIZES = dict(
    vocab_size=90, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=5,
    relative_attention_num_buckets=8, relative_attention_max_distance=20,
    feed_forward_proj="gated-gelu",
)  # fmt: skip
WORDS = [
    *("a", "the", "red", "blue", "ball", "box", "rolls", "jumps"),
    *("over", "under", "and", "then", "café", "&", "it's"),
]
STATISTICS = dict(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 2.0, 1.5, 0.7])
VAE_SIZES = {
    "2.1": dict(base_dim=4, z_dim=4, num_res_blocks=1, **STATISTICS),
    "2.2": dict(
        base_dim=4, decoder_base_dim=6, z_dim=4, num_res_blocks=1, is_residual=True,
        patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16, **STATISTICS,
    ),
}  # fmt: skip


def torch_vae(version: str) -> AutoencoderKLWan:
    torch.manual_seed(0)
    model = AutoencoderKLWan(**VAE_SIZES[version]).eval().requires_grad_(False)
    for name, tensor in model.named_parameters():
        # Norm scales start at one and would hide a wrong axis or a missing one.
        if name.endswith("gamma"):
            tensor.add_(0.2 * torch.randn(tensor.shape))
    return model


def torch_umt5() -> transformers.UMT5EncoderModel:
    torch.manual_seed(0)
    model = transformers.UMT5EncoderModel(transformers.UMT5Config(**UMT5_SIZES)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            # Initial norms are one and initial biases near zero: both would hide mistakes.
            if "layer_norm" in name:
                value.add_(0.3 * torch.randn(value.shape))
            if "relative_attention_bias" in name:
                value.copy_(torch.randn(value.shape))
    return model


def save_tokenizer(folder: pathlib.Path) -> None:
    """A tokenizer of UMT5's kind, of few words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁" + word, -2.0) for word in WORDS]
    pieces += [(letter, -9.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def save_diffusers(root: pathlib.Path, version: str, **transformer) -> pathlib.Path:
    """A folder as diffusers lays a pipeline out; `transformer` replaces its sizes."""
    sizes = dict(channels=4, text=UMT5_SIZES["d_model"]) | transformer
    torch_wan(**sizes).save_pretrained(root / "transformer", max_shard_size="100KB")
    torch_vae(version).save_pretrained(root / "vae")
    torch_umt5().save_pretrained(root / "text_encoder")
    save_tokenizer(root / "tokenizer")
    return root


def save_original(root: pathlib.Path, diffusers: pathlib.Path, version: str) -> pathlib.Path:
    """The same weights as the original Wan lays them out: .pth files, no config but its own.

    Small autoencoders are not known by their weights alone: theirs lies in a folder of its own,
    with the config.json.
    """
    (root / "own").mkdir(parents=True)
    tensors = torch_wan(channels=4, text=UMT5_SIZES["d_model"]).state_dict()
    names = original_names(tensors)
    weights = {names[key]: value.contiguous() for key, value in tensors.items()}
    save_file(weights, root / "diffusion_pytorch_model.safetensors")
    (root / "config.json").write_text(json.dumps({"_class_name": "WanModel", "num_heads": 2}))

    config = load_vae_config(diffusers)
    theirs = torch_vae(version).state_dict()
    ours = vae.load_wan_vae(diffusers / "vae")
    paths = vae.parameter_paths(ours)
    torch.save(
        {
            vae.tensor_name(path, config, "original"): theirs[
                vae.tensor_name(path, config, "diffusers")
            ]
            for path in paths
        },
        root / "own" / f"Wan{version}_VAE.pth",
    )
    text = (diffusers / "vae" / "config.json").read_text()
    (root / "own" / "config.json").write_text(text)

    theirs = torch_umt5().state_dict()
    pairs = zip(
        umt5.tensor_names(UMT5_SIZES["num_layers"], original=False).values(),
        umt5.tensor_names(UMT5_SIZES["num_layers"], original=True).values(),
        strict=True,
    )
    weights = {new: theirs[old].bfloat16() for old, new in pairs}
    torch.save(weights, root / "models_t5_umt5-xxl-enc-bf16.pth")
    save_tokenizer(root / "google" / "umt5-xxl")
    return root
