"""UMT5 against transformers' own, from the files that transformers writes."""

import dataclasses
import json
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from wan_download import UMT5_SIZES as SIZES
from wan_download import save_tokenizer, torch_umt5

from unityvideo_jax.errors import UserError
from unityvideo_jax.interop import umt5
from unityvideo_jax.models import build
from unityvideo_jax.models.text.encoder import TextEncoder
from unityvideo_jax.models.text.umt5 import UMT5, UMT5_XXL, UMT5Config, relative_buckets
from unityvideo_jax.pretrained import text

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 40
RELATIVE_ERROR = 1e-5
LIBRARY = "transformers UMT5EncoderModel"


@pytest.fixture(scope="module")
def reference():
    return torch_umt5()


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    """A Wan folder as Hugging Face lays it out, with a small tokenizer of our own making."""
    root = tmp_path_factory.mktemp("wan")
    reference.save_pretrained(root / "text_encoder")
    save_tokenizer(root / "tokenizer")
    return root


@pytest.fixture(scope="module")
def model(folder):
    return umt5.load_umt5(folder / "text_encoder")


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def test_equals_transformers(reference, model, parity):
    rng = np.random.default_rng(0)
    lengths = [LENGTH, 23, 7, 1]
    ids = rng.integers(0, SIZES["vocab_size"], (len(lengths), LENGTH))
    mask = np.arange(LENGTH) < np.array(lengths)[:, None]
    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask.astype(np.int64))
        ).last_hidden_state.numpy()
    ours = jax.jit(lambda i, m: model(i, m))(ids.astype(np.int32), mask)
    for i, length in enumerate(lengths):
        name, pair = "UMT5 encoder", (ours[i, :length], expected[i, :length])
        parity(name, LIBRARY, *pair, bound=RELATIVE_ERROR)
    other = model(jnp.asarray(ids[1:2], jnp.int32), jnp.ones((1, LENGTH), bool))
    assert relative_error(other[0, :23], expected[1, :23]) > 1e-2  # the mask does matter


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20), (16, 1000)])
def test_buckets_are_those_of_transformers(buckets, distance):
    from transformers.models.umt5.modeling_umt5 import UMT5Attention

    config = transformers.UMT5Config(
        **SIZES
        | dict(relative_attention_num_buckets=buckets, relative_attention_max_distance=distance)
    )
    layer = UMT5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    positions = torch.arange(512)
    expected = layer._relative_position_bucket(positions[None, :] - positions[:, None])
    np.testing.assert_array_equal(relative_buckets(512, buckets, distance), expected.numpy())


def test_xxl_has_the_published_size():
    shapes = build.abstract(UMT5, UMT5_XXL)[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 5_680_910_336


def test_original_names_give_the_same_model(folder, model, tmp_path):
    """Wan's own file, which has no config.json: its sizes are then those of the weights."""
    tensors = load_file(folder / "text_encoder" / "model.safetensors")
    to_original = dict(
        zip(
            umt5.tensor_names(3, original=False).values(),
            umt5.tensor_names(3, original=True).values(),
            strict=True,
        )
    )
    # Written by hand once, from Wan's module tree.
    assert to_original["encoder.block.2.layer.1.DenseReluDense.wi_0.weight"] == (
        "blocks.2.ffn.gate.0.weight"
    )
    assert to_original["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] == (
        "blocks.0.pos_embedding.embedding.weight"
    )
    renamed = {to_original[name]: value for name, value in tensors.items() if name in to_original}
    save_file(renamed, tmp_path / "umt5.safetensors")
    assert umt5.load_umt5(tmp_path).config == UMT5Config(
        vocab_size=90, dim=32, ffn_dim=48, num_heads=5, head_dim=8, num_layers=3, num_buckets=8
    )
    shutil.copy(folder / "text_encoder" / "config.json", tmp_path)
    same = umt5.load_umt5(tmp_path)
    chex.assert_trees_all_equal(nnx.state(same), nnx.state(model))


def test_bfloat16_stays_close_and_sharded_files_load(reference, folder, model, tmp_path):
    half = transformers.UMT5EncoderModel.from_pretrained(
        folder / "text_encoder", dtype=torch.bfloat16
    )
    half.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = umt5.load_umt5(tmp_path)
    assert loaded.embedding[...].dtype == jnp.bfloat16
    ids, mask = jnp.arange(20)[None], jnp.ones((1, 20), bool)
    out = loaded(ids, mask)
    assert out.dtype == jnp.float32
    assert relative_error(out, np.asarray(model(ids, mask))) < 0.05
    next(tmp_path.glob("*-00002-of-*.safetensors")).unlink()
    with pytest.raises(UserError, match=r"model-00002.*missing"):
        umt5.load_umt5(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_those_of_transformers_bit_for_bit(folder, tmp_path, dtype):
    load = transformers.UMT5EncoderModel.from_pretrained
    theirs = load(folder / "text_encoder", dtype=getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    kept = torch.float32 if dtype == "float32" else torch.bfloat16
    expected = theirs.state_dict()
    loaded = nnx.to_flat_state(nnx.state(umt5.load_umt5(tmp_path), nnx.Param))
    names = umt5.tensor_names(3, original=False)
    assert len(loaded) == len(names)
    for path, leaf in loaded:
        ours = ".".join(map(str, path))
        large = ours == "embedding" or ours.endswith("kernel")
        tensor = expected[names[ours]].to(kept if large else torch.float32)
        assert str(leaf.get_value().dtype) == str(tensor.dtype).removeprefix("torch.")
        value = tensor.float().numpy()
        value = value.T if ours.endswith("kernel") else value
        np.testing.assert_array_equal(np.asarray(leaf.get_value(), np.float32), value, ours)


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("name", [*umt5.TOKENIZERS, "LlamaTokenizer", None])
def test_texts_have_the_tokens_that_transformers_gives_them(model, folder, tmp_path, name, end):
    copy = shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    whole = json.loads((copy / "tokenizer.json").read_text())
    if not end:
        whole["post_processor"] = None
        (copy / "tokenizer.json").write_text(json.dumps(whole))
    file = copy / "tokenizer_config.json"
    config = {k: v for k, v in json.loads(file.read_text()).items() if k != "tokenizer_class"}
    file.write_text(json.dumps(config | ({"tokenizer_class": name} if name else {})))
    if name is None:
        file.unlink()
        shutil.copy(folder / "text_encoder" / "config.json", copy)
    found = transformers.AutoTokenizer.from_pretrained(copy)
    # Lengths that a tokenizer brings are not those of the encoder.
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (copy / "tokenizer.json").write_text(json.dumps(whole | {"truncation": cut}))
    ours = umt5.UMT5TextEncoder(model=model, tokenizer=umt5.load_tokenizer(copy), length=LENGTH)
    texts = ["the red ball rolls", "", "a blue box " * 30, "the\nred  unknown ball "]
    for text_ in texts:
        expected = found(umt5.clean(text_), truncation=True, max_length=LENGTH).input_ids
        assert ours.tokens(text_) == expected
        assert ours.count(text_) == len(found(umt5.clean(text_)).input_ids)
    one = dataclasses.replace(ours, length=1)
    assert one.tokens("the red ball") == found("the", truncation=True, max_length=1).input_ids


def test_umt5s_own_tokenizer_needs_neither_transformers_nor_pytorch(folder):
    code = (
        "import pathlib, sys\n"
        "from unityvideo_jax.interop import umt5\n"
        "umt5.load_tokenizer(pathlib.Path(sys.argv[1])).encode('the red ball')\n"
        "assert not {'transformers', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, folder / "tokenizer"], check=True)


def test_texts_as_wan_embeds_them(reference, folder, parity):
    """The steps of diffusers' WanPipeline: clean, tokenize, mask, zero the rest."""
    pipeline = pytest.importorskip("diffusers.pipelines.wan.pipeline_wan")
    encoder = text.load_text_encoder(f"umt5:{folder}", LENGTH)
    assert isinstance(encoder, TextEncoder)
    assert (encoder.name, encoder.dim, encoder.length) == ("umt5", 32, LENGTH)
    texts = [
        "the red ball  rolls\n over\tthe blue box",
        "",
        "  it&amp;#39;s a cafÃ© &amp;amp; box ",
        "red ball and blue box and then " * 12,
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    tokens = tokenizer(
        [pipeline.prompt_clean(t) for t in texts],
        padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        expected = reference(tokens.input_ids, tokens.attention_mask).last_hidden_state
    expected = (expected * tokens.attention_mask[..., None]).numpy()
    used = tokens.attention_mask.sum(1).tolist()
    assert used[1] == 1 and used[3] == LENGTH and used[0] < LENGTH
    assert [encoder.count(t) for t in texts[:3]] == used[:3] and encoder.count(texts[3]) > LENGTH
    out = encoder(texts)
    name = "UMT5 text to embeddings"
    parity(name, "diffusers WanPipeline's steps", out, expected, bound=RELATIVE_ERROR)
    assert not out[0, used[0] :].any()
    np.testing.assert_array_equal(encoder(texts[2:3])[0], out[2])


@pytest.mark.parametrize(
    ("dirty", "cleaned"),
    [("a  b\n\n c ", "a b c"), ("&amp;lt;p&amp;gt;", "<p>"), ("cafÃ©", "café"), ("", "")],
)
def test_cleaning(dirty, cleaned):
    assert umt5.clean(dirty) == cleaned


def test_faulty_folders_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"nothing': no such folder"):
        text.load_text_encoder(f"umt5:{tmp_path / 'nothing'}")
    with pytest.raises(UserError, match=r"no tokenizer\.json or spiece\.model"):
        text.load_text_encoder(f"umt5:{tmp_path}")
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"no \*\.safetensors or \*\.pth in any of"):
        text.load_text_encoder(f"umt5:{tmp_path}")
    (tmp_path / "models_t5.pth").touch()
    with pytest.raises(UserError, match=r"models_t5\.pth: truncated"):
        umt5.load_umt5(tmp_path)

    weights = tmp_path / "text_encoder"
    shutil.copytree(folder / "text_encoder", weights)
    config = json.loads((weights / "config.json").read_text())
    (weights / "config.json").write_text(json.dumps(config | {"d_ff": 64}))
    with pytest.raises(UserError, match=r"wi_0\.weight is \(48, 32\), not \(64, 32\).* more"):
        umt5.load_umt5(weights)
    (weights / "config.json").write_text(json.dumps(config | {"feed_forward_proj": "relu"}))
    with pytest.raises(UserError, match="'relu'"):
        umt5.load_umt5(weights)
    (weights / "config.json").write_text("{")
    with pytest.raises(UserError, match="not a UMT5 configuration"):
        umt5.load_umt5(weights)
    (weights / "config.json").write_text(json.dumps(config))
    whole = (weights / "model.safetensors").read_bytes()
    (weights / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="truncated"):
        text.load_text_encoder(f"umt5:{tmp_path}")


@pytest.mark.parametrize(
    "wrong", [{"dim": 0}, {"num_buckets": 6}, {"max_distance": 8}, {"num_layers": True}]
)
def test_configurations_that_cannot_be(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        UMT5Config(**wrong)


def test_names_its_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"unityvideo_jax\[interop\]"):
        text.load_text_encoder(f"umt5:{folder}")
