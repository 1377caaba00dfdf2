"""Damaged, repackaged, quantised and foreign weights, for `convert`, --vae and text encoders."""

import functools
import json
import pathlib
import struct
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import ml_dtypes
import numpy as np
import safetensors.numpy

from tests.faults.harness import Case
from unityvideo_jax import convert
from unityvideo_jax.interop import wan, wan_keys
from unityvideo_jax.interop.umt5 import load_umt5
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.pretrained.vae import SHIPPED, load_vae
from unityvideo_jax.settings import presets

KIND = "weights"
MODEL = dict(dim=8, ffn_dim=8, num_heads=1, num_layers=1, in_channels=4, freq_dim=8, text_dim=4)
MODEL |= dict(text_len=2, modalities=("rgb",), switcher="none", heads="shared", attention="xla")
Tensors = Mapping[str, np.ndarray]
BIAS = "patch_embedding.bias"  # of the transformer below, f32[8]


@functools.cache
def _wan(layout: str = "wan") -> Tensors:
    """A whole transformer."""
    rng = np.random.default_rng(0)
    return {
        entry.key: rng.normal(size=entry.shape).astype(np.float32)
        for entry in wan_keys.entries(DiTConfig(**MODEL), layout)
    }


def _save(folder: pathlib.Path, tensors: Tensors) -> pathlib.Path:
    path = folder / "weights.safetensors"
    safetensors.numpy.save_file(dict(tensors), path)
    return path


def _convert(folder: pathlib.Path, source: pathlib.Path) -> list[str]:
    """Converts as the program does; what it refuses has written nothing."""
    lines: list[str] = []
    data = presets.load("worlds_tiny").data  # the config of a conversion is whole
    config = ml_collections.ConfigDict({"seed": 0, "model": MODEL, "data": data})
    try:
        convert.convert_in(str(source), str(folder / "run"), config, lines.append)
    except Exception:
        assert not (folder / "run").exists()
        raise
    return lines


def _given(folder: pathlib.Path, make: Callable[[], Tensors]) -> None:
    _convert(folder, _save(folder, make()))


def _without(*names: str) -> dict[str, np.ndarray]:
    return {name: x for name, x in _wan().items() if name not in names}


def _changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Tensors:
    return {**_wan(), name: change(_wan()[name].copy())}


def _with_nan(value: float, dtype: Any = np.float32) -> Tensors:
    bad = _wan()[BIAS].astype(dtype)
    bad[3] = value
    return {**_wan(), BIAS: bad}


def _header(folder: pathlib.Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A file whose header `change` alters, or replaces if it returns one."""
    whole = _save(folder, _wan()).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    text = change(header)
    text = json.dumps(header).encode() if text is None else text
    path = folder / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    _convert(folder, path)


def _bytes(folder: pathlib.Path, data: bytes, name: str = "weights.safetensors") -> None:
    (folder / name).write_bytes(data)
    _convert(folder, folder / name)


def _prefixed(folder: pathlib.Path, prefix: str, layout: str = "wan") -> None:
    """Weights under a prefix convert as they do without, and the line says which."""
    plain = wan.open_checkpoint(_save(folder, _wan(layout)), DiTConfig(**MODEL))
    (folder / "more").mkdir()
    path = _save(folder / "more", {prefix + name: x for name, x in _wan(layout).items()})
    found = wan.open_checkpoint(path, DiTConfig(**MODEL))
    assert (found.layout, found.prefix) == (layout, prefix)
    assert set(found.tensors) == set(plain.tensors)
    for name, tensor in found.tensors.items():
        np.testing.assert_array_equal(tensor.read(), _wan(layout)[name])


def converted(folder: pathlib.Path) -> None:
    """Converts prefixed weights into `folder`/run, and asserts that it says so."""
    named = {f"model.diffusion_model.{name}": x for name, x in _wan().items()}
    lines = _convert(folder, _save(folder, named))
    assert "all names begin with 'model.diffusion_model.', which is left out" in lines
    assert (folder / "run" / "checkpoints" / "0" / "digests").is_dir()


def _zeros(**shapes: tuple[int, ...]) -> Tensors:
    """float16 tensors; `__` in a keyword is a dot."""
    return {name.replace("__", "."): np.zeros(s, np.float16) for name, s in shapes.items()}


def _quantised(dtype: Any, **more: tuple[int, ...]) -> Tensors:
    small = {n: x.astype(dtype) if n.endswith("weight") else x for n, x in _wan().items()}
    return small | _zeros(**more)


def _pickled(folder: pathlib.Path, make: Callable[[Any], Any]) -> None:
    import torch

    torch.save(make(torch), folder / "Wan2.1_VAE.pth")
    load_vae(folder / "Wan2.1_VAE.pth")


def _vae(folder: pathlib.Path, tensors: Tensors) -> None:
    (folder / "config.json").write_bytes((SHIPPED / "config.json").read_bytes())
    safetensors.numpy.save_file(dict(tensors), folder / "model.safetensors")
    load_vae(folder)


def _vae_with_nan(folder: pathlib.Path) -> None:
    tensors = safetensors.numpy.load_file(SHIPPED / "model.safetensors")
    tensors["conv1.bias"][0] = np.nan
    _vae(folder, tensors)


def _offsets(name: str, start: int, end: int) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        first, after = header[name]["data_offsets"]
        header[name]["data_offsets"] = [first + start, after + end]

    return change


HEADERS = {
    "shape that does not fill its bytes": (
        lambda h: h[BIAS].update(shape=[7]),
        (BIAS, "F32[7], 28 bytes", "offsets hold 32"),
    ),
    "overlap": (_offsets(BIAS, -8, -8), (BIAS, "overlaps")),
    "gap": (_offsets(BIAS, 8, 8), (BIAS, "leaves a gap")),
    "terabytes of one tensor": (
        lambda h: h[max(h, key=lambda n: h[n]["data_offsets"])].update(shape=[2**42]),
        ("17,592,186,044,416 bytes",),
    ),
    "a tensor past the end": (
        lambda h: h.update(more={"dtype": "U8", "shape": [9], "data_offsets": [_end(h)] * 2}),
        ("more is U8[9], 9 bytes",),
    ),
    "no shape": (lambda h: h[BIAS].__delitem__("shape"), (BIAS, "no right shape")),
    "negative shape": (lambda h: h[BIAS].update(shape=[-8]), (BIAS, "no right shape")),
    "boolean shape": (lambda h: h[BIAS].update(shape=[True, 8]), (BIAS, "no right shape")),
    "one offset": (lambda h: h[BIAS].update(data_offsets=[0]), (BIAS, "data_offsets")),
    "nesting": (lambda h: h.update(x={"y": {"z": 1}}), ("header of x", "no right dtype and shape")),
    "a tensor that is a number": (lambda h: h.update(x=3), ("header of x",)),
    "unknown type": (lambda h: h[BIAS].update(dtype="F31"), (BIAS, "F31")),
    "a list": (lambda h: b"[1, 2]", ("its header",)),
    "no text": (lambda h: b"\xff" * 40, ("its header",)),
    "deep nesting": (lambda h: b'{"a":' * 50_000, ("its header",)),
    "a name twice": (
        lambda h: json.dumps(h).replace("head.modulation", BIAS).encode(),
        (BIAS, "is there twice", "copy it again"),
    ),
}


def _end(header: dict[str, Any]) -> int:
    return max(info["data_offsets"][1] for info in header.values())


FILES = {
    "a header of terabytes": (struct.pack("<Q", 2**42) + b"{}", ("claims 4,398,046,511,104",)),
    "an empty file": (b"", ("truncated", "0 bytes long")),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(64), ("is a GGUF file (quantised)",)),
    "a renamed .pth": (b"PK\x03\x04\x00\x00\x08\x08" + bytes(64), ("a zip archive",)),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", ("git lfs pull",)),
    "a web page": (b"<!DOCTYPE html><html></html>", ("a web page",)),
}
LORA = {
    "PEFT": (dict(diffusion_model__blocks__0__self_attn__q__lora_A__weight=(16, 8)), "of rank 16"),
    "PEFT of diffusers": (
        dict(transformer__blocks__0__attn1__to_q__lora_A__default__weight=(4, 8)),
        "LoRA in PEFT's and diffusers' layout of rank 4",
    ),
    "Kohya": (
        dict(
            lora_unet_blocks_0_self_attn_q__lora_down__weight=(32, 8),
            lora_unet_blocks_0_self_attn_q__lora_up__weight=(8, 32),
            lora_unet_blocks_0_self_attn_q__alpha=(),
        ),
        "LoRA in Kohya's and ComfyUI's layout of rank 32",
    ),
    "older diffusers": (
        dict(unet__mid_block__attn__processor__to_q_lora__down__weight=(8, 64)),
        "LoRA in diffusers' older layout of rank 8",
    ),
    "LoKr": (dict(lycoris_blocks_0_ffn_0__lokr_w1=(4, 4)), "a LoKr adapter"),
}
QUANTISED = {
    "int8": (lambda: _quantised(np.int8), "quantised (I8)"),
    "fp8 with scales of inputs": (
        lambda: _quantised(ml_dtypes.float8_e4m3fn, blocks__0__ffn__0__scale_weight=(3,)),
        "has 3 scales for blocks.0.ffn.0.weight",
    ),
    "scales of what is no fp8": (
        lambda: _quantised(np.float16, blocks__0__ffn__0__scale_weight=(1,)),
        "quantised (fp8 with scales)",
    ),
    "nf4": (
        lambda: {
            **_quantised(np.uint8),
            "blocks.0.ffn.0.weight.quant_state.bitsandbytes__nf4": np.zeros(9, np.uint8),
        },
        "quantised (4 bits by bitsandbytes",
    ),
    "gptq": (
        lambda: _zeros(blocks__0__ffn__0__qweight=(4, 8), blocks__0__ffn__0__g_idx=(8,)),
        "quantised (integers by GPTQ)",
    ),
}
OTHERS = {
    "UNet": (
        dict(
            model__diffusion_model__input_blocks__0__0__weight=(1,),
            model__diffusion_model__output_blocks__0__0__weight=(1,),
        ),
        "is a Stable Diffusion UNet",
    ),
    "Flux": (
        dict(double_blocks__0__img_attn__qkv__weight=(1,), single_blocks__0__linear1__weight=(1,)),
        "is a Flux transformer",
    ),
    "SD3": (
        dict(model__diffusion_model__joint_blocks__0__x_block__attn__qkv__weight=(1,)),
        "is a Stable Diffusion 3 transformer",
    ),
    "VAE": (
        dict(encoder__conv_in__weight=(1,), decoder__conv_in__weight=(1,)),
        "is an autoencoder (VAE)",
    ),
    "UMT5": (
        dict(encoder__block__0__layer__0__SelfAttention__q__weight=(1,), shared__weight=(1,)),
        "is a T5 or UMT5 text encoder",
    ),
    "UMT5 of Wan": (
        dict(blocks__0__pos_embedding__embedding__weight=(1,), token_embedding__weight=(1,)),
        "is a T5 or UMT5 text encoder",
    ),
    "CLIP": (
        dict(text_model__encoder__layers__0__self_attn__q_proj__weight=(1,)),
        "is a CLIP model",
    ),
}


def _case(name: str, act: Callable[[pathlib.Path], Any], *says: str) -> Case:
    return Case(kind=KIND, name=name, act=act, says=says)


def _made(name: str, make: Callable[[], Tensors], *says: str) -> Case:
    return _case(name, functools.partial(_given, make=make), *says)


CASES = [
    *(
        _case(f"header: {name}", functools.partial(_header, change=change), *says)
        for name, (change, says) in HEADERS.items()
    ),
    *(
        _case(f"file: {name}", functools.partial(_bytes, data=data), *says)
        for name, (data, says) in FILES.items()
    ),
    *(
        _made(f"LoRA: {name}", functools.partial(_zeros, **shapes), "is a Lo", says)
        for name, (shapes, says) in LORA.items()
    ),
    *(_made(f"quantised: {name}", make, says) for name, (make, says) in QUANTISED.items()),
    *(
        _made(f"other model: {name}", functools.partial(_zeros, **shapes), says, "Wan transformer")
        for name, (shapes, says) in OTHERS.items()
    ),
    *(
        _case(f"prefix {prefix}", functools.partial(_prefixed, prefix=prefix, layout=layout))
        for prefix, layout in {
            "diffusion_model.": "wan",
            "model.": "wan",
            "module.": "wan",
            "transformer.": "diffusers",
            "module._orig_mod.": "diffusers",
        }.items()
    ),
    _case("prefix model.diffusion_model. converts", converted),
    _made(
        "mixed prefixes",
        lambda: {("model." if "ffn" in n else "") + n: x for n, x in _wan().items()},
        "model. (4 names)",
        "none (",
    ),
    _made("NaN", lambda: _with_nan(np.nan), BIAS, "is nan at element 3 of 8"),
    _made("infinity in bfloat16", lambda: _with_nan(-np.inf, ml_dtypes.bfloat16), BIAS, "is -inf"),
    _made("one int8", lambda: _changed(BIAS, lambda x: x.astype(np.int8)), BIAS, "of type I8"),
    _made("float64", lambda: _changed(BIAS, lambda x: x.astype(np.float64)), BIAS, "of type F64"),
    _made("a missing tensor", lambda: _without(BIAS), f"lacks {BIAS}"),
    _case(
        "vae: LoRA", lambda f: _vae(f, _zeros(x__lora_A__weight=(4, 8))), "is a LoRA", "of rank 4"
    ),
    _case("vae: transformer", lambda f: _vae(f, _wan()), "is a Wan transformer"),
    _case("vae: NaN", _vae_with_nan, "conv1.bias is nan"),
    _case(
        "text encoder: CLIP",
        lambda f: load_umt5(_save(f, _zeros(text_model__encoder__layers__0__x__weight=(1,)))),
        "is a CLIP model",
    ),
    _case(
        "pth: more than tensors",
        lambda f: _pickled(f, lambda torch: {"state_dict": {"a": torch.zeros(1)}}),
        "holds more than tensors by name",
    ),
    _case(
        "pth: terabytes by repetition",
        lambda f: _pickled(f, lambda torch: {"a": torch.zeros(1).expand(2**42)}),
        "a is (4398046511104,), more than the file holds",
    ),
    _case(
        "pth: sparse",
        lambda f: _pickled(f, lambda torch: {"a": torch.eye(3).to_sparse()}),
        "a is not a plain tensor",
    ),
    _case(
        "pth: code",
        lambda f: _pickled(f, lambda torch: {"a": pathlib.PurePosixPath("/")}),
        "holds more than tensors, which could run code",
    ),
]
