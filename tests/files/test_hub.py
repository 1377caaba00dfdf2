"""Ids of the Hugging Face hub, from a cache that the test makes; the hub itself is never asked."""

import hashlib
import importlib.util
import os
import pathlib

import chex
import huggingface_hub
import numpy as np
import pytest
from flax import nnx
from huggingface_hub import constants, errors, utils
from safetensors.numpy import save_file

from tests.tiny_pipeline import quick_compile, tiny_model, tiny_pipeline  # noqa: F401
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import hub
from unityvideo_jax.interop import wan
from unityvideo_jax.interop.card import write_card
from unityvideo_jax.sampling.pipeline import Pipeline

MAIN, TAGGED = (hashlib.sha1(name).hexdigest() for name in (b"main", b"v1"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An offline machine with a cache, in an empty folder; a function that adds to the cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def add(repository: str, write, *, commit: str = MAIN, ref: str = "main") -> pathlib.Path:
        folder = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        write(snapshot)
        for file in [f for f in snapshot.rglob("*") if f.is_file()]:
            blob = folder / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            blob.parent.mkdir(exist_ok=True)
            file.replace(blob)
            file.symlink_to(os.path.relpath(blob, file.parent))
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
        return snapshot

    return add


def _text(content: str):
    def write(folder: pathlib.Path) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(content)

    return write


def test_an_id_is_the_snapshot_of_its_revision(cache):
    main = cache("org/name", _text("main"))
    tagged = cache("org/name", _text("v1"), commit=TAGGED, ref="v1")
    assert hub.local("org/name", ["*"]) == main
    assert hub.local("org/name@v1", ["*"]) == hub.local(f"org/name@{TAGGED}", ["*"]) == tagged
    # A local folder of that name comes first.
    pathlib.Path("org/name").mkdir(parents=True)
    assert hub.local("org/name", ["*"]) == pathlib.Path("org/name")
    for name in ("a", "a/b/c", "/a/b", "../b", "org/absent.safetensors"):
        assert hub.local(name, ["*"]) == pathlib.Path(name)


def test_offline_and_without_the_package_one_line_says_so(cache, monkeypatch):
    cache("org/name", _text("main"))
    for name in ("org/other", "org/name@v2"):
        with pytest.raises(UserError, match=rf"^{name}: .*not in the cache .*offline") as caught:
            hub.local(name, ["*"])
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'unityvideo_jax\[hub\]'"):
        hub.local("org/name", ["*"])


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("RepositoryNotFoundError", "no such file or folder, nor on the Hugging Face hub"),
        ("RevisionNotFoundError", "no revision 'v2'"),
        ("GatedRepoError", "ask at https://huggingface.co/org/name"),
        ("HfHubHTTPError", "does not give it"),
    ],
)
def test_what_the_hub_refuses_is_one_line(cache, monkeypatch, error, says):
    kind = getattr(errors, error)
    refused = kind.__new__(kind)
    refused.args = ("503 Service Unavailable",)
    asked = []

    def refuse(*args, **options):
        asked.append((args, options))
        raise refused

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=says):
        hub.local("org/name@v2", ["vae/*"], ["x"])
    options = {"revision": "v2", "allow_patterns": ["vae/*"], "ignore_patterns": ["x"]}
    assert asked == [(("org/name",), options)]


def test_only_the_transformer_of_a_pipeline_is_fetched():
    names = [
        "model_index.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model-00001-of-00005.safetensors",
        "tokenizer/tokenizer.json",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "assets/film.mp4",
    ]
    found = utils.filter_repo_objects(
        names, allow_patterns=list(wan.HUB_FILES), ignore_patterns=list(wan.HUB_OTHERS)
    )
    assert list(found) == names[:4]


def test_models_and_wan_s_weights_are_read_by_their_ids(cache):
    cache("org/ours", lambda folder: tiny_pipeline().save_pretrained(folder))
    chex.assert_trees_all_equal(Pipeline.from_pretrained("org/ours").params, tiny_pipeline().params)
    model = tiny_model(freq_dim=256)
    folder = cache("org/wan", lambda folder: wan.save_dit(model, folder / "transformer"))
    by_id, by_path = (nnx.state(wan.load_dit(name, model.config)) for name in ("org/wan", folder))
    chex.assert_trees_all_equal(by_id, by_path)
    with pytest.raises(UserError, match=r"^org/ours: "):
        wan.open_checkpoint("org/ours", model.config)


def test_the_card_is_one_that_the_hub_reads(tmp_path):
    save_file({"x": np.zeros(1)}, tmp_path / "model.safetensors")
    config = tiny_model(freq_dim=256).config
    file = write_card(
        tmp_path,
        config,
        layout="diffusers",
        storage="float16",
        made_from="the weights of step 7 of a run called a|b",
        left_over={"modality_embedding.table": 192},
    )
    card = huggingface_hub.ModelCard.load(file)
    assert card.data.library_name == "diffusers" and card.data.pipeline_tag == "text-to-video"
    assert "a\\|b" in card.text and "192 parameters" in card.text
    assert f'from_pretrained("{tmp_path.name}")' in card.text
