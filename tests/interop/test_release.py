"""The public UnityVideo release: a random checkpoint in its layout, run by torch and by us."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file, save_file
from torch import nn
from wan_torch import call, channels_last, original_names, our_config, quick_jit, torch_wan

from unityvideo_jax.errors import UserError
from unityvideo_jax.interop.wan import load_dit, save_dit
from unityvideo_jax.sampling.generate import SamplerConfig, generate, stream_noise
from unityvideo_jax.settings import presets

NAMES = ("depth", "raft", "segmentation", "skeleton", "densepose")
SWITCHES = dict(switcher="additive", heads="shared")


class Release(nn.Module):
    """The release's two-stream model around diffusers' blocks, as its page describes it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.base = torch_wan()
        dim = 40
        self.flow_patch_embedding = nn.Conv3d(4, dim, (1, 2, 2), (1, 2, 2))
        self.flow_in = nn.Linear(dim, dim)
        self.modality_embeddings = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(dim)) for name in NAMES}
        )
        self.flow_head = nn.Linear(dim, 16)
        self.flow_modulation = nn.Parameter(0.3 * torch.randn(1, 2, dim))

    def checkpoint(self) -> dict[str, torch.Tensor]:
        names = original_names(self.base.state_dict())
        stored = {f"base.{names[k]}": v for k, v in self.base.state_dict().items()}
        for name, weight in self.state_dict().items():
            if name.startswith("flow_head."):
                stored[name.replace("flow_head.", "flow_head.head.")] = weight
            elif not name.startswith(("base.", "flow_modulation")):
                stored[name] = weight
        return stored | {"flow_head.modulation": self.flow_modulation.detach()}

    def forward(self, rgb, other, timestep, context_rgb, context_other, modality):
        base = self.base
        embed = base.condition_embedder
        time, vectors, text_rgb, _ = embed(1000.0 * timestep, context_rgb, None)
        text_other = embed(1000.0 * timestep, context_other, None)[2]
        vectors = vectors.unflatten(1, (6, -1))
        left = base.patch_embedding(rgb).movedim(1, -1)
        right = self.flow_in(self.flow_patch_embedding(other).movedim(1, -1))
        right = right + self.modality_embeddings[modality]
        both = torch.cat([left, right], dim=3)
        b, f, h, w, d = both.shape
        rope = base.rope(torch.cat([rgb, other], dim=-1))
        x = both.reshape(b, -1, d)
        for block in base.blocks:
            parts = (block.scale_shift_table + vectors).chunk(6, dim=1)
            y = block.norm1(x) * (1 + parts[1]) + parts[0]
            x = x + parts[2] * block.attn1(y, None, None, rope)
            grid = x.reshape(b, f, h, w, d)
            halves = []
            for half, text in zip(grid.chunk(2, dim=3), (text_rgb, text_other), strict=True):
                tokens = half.reshape(b, -1, d)
                tokens = tokens + block.attn2(block.norm2(tokens), text, None, None)
                halves.append(tokens.reshape(half.shape))
            x = torch.cat(halves, dim=3).reshape(b, -1, d)
            y = block.norm3(x) * (1 + parts[4]) + parts[3]
            x = x + parts[5] * block.ffn(y)
        left, right = x.reshape(b, f, h, w, d).chunk(2, dim=3)
        return (
            self._head(left, base.scale_shift_table, base.proj_out, time),
            self._head(right, self.flow_modulation, self.flow_head, time),
        )

    def _head(self, x, table, project, time):
        shift, scale = (table + time[:, None]).chunk(2, dim=1)
        b, f, h, w, _ = x.shape
        x = x.flatten(1, 3)
        x = project(self.base.norm_out(x) * (1 + scale) + shift)
        x = x.reshape(b, f, h, w, 1, 2, 2, 4)
        return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, f, 2 * h, 2 * w, 4)


@pytest.fixture(scope="module")
def release():
    return Release()


@pytest.fixture(scope="module")
def file(release, tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "unityvideo.safetensors"
    save_file({k: v.contiguous() for k, v in release.checkpoint().items()}, path)
    return path


@pytest.mark.parametrize(("theirs", "ours"), [("raft", "flow"), ("skeleton", "skeleton")])
def test_the_release_is_reproduced(release, file, theirs, ours, parity):
    model = load_dit(file, our_config(**SWITCHES, shared_timestep=True))
    rng = np.random.default_rng(0)
    rgb, other = rng.standard_normal((2, 2, 4, 3, 4, 6), np.float32)
    contexts = rng.standard_normal((2, 2, 7, 12), np.float32)
    timestep = np.float32([0.2, 0.7])
    with torch.no_grad():
        expected = release(
            *map(torch.from_numpy, (rgb, other, timestep, *contexts)), modality=theirs
        )
    identity = model.config.modalities.index(ours)
    velocity = call(
        model,
        jnp.concatenate([channels_last(rgb), channels_last(other)], axis=1),
        # A clean stream: to the release it has the noisy one's timestep.
        jnp.stack([timestep, timestep * [1, 0]], 1),
        jnp.asarray([[0, identity]] * 2, jnp.int32),
        jnp.stack(list(contexts), 1),
    )
    for stream in (0, 1):
        pair = (velocity[:, stream], expected[stream].numpy())
        parity("public release, velocity", "its model around diffusers' blocks", *pair, bound=1e-5)


def test_its_sampling_is_reproduced(release, file, parity):
    """The preset's sampler: 20 Euler steps from 1 to 0, no shift, no guidance, both streams."""
    preset = presets.load("unityvideo_release_5b")
    sampler = SamplerConfig(**preset.sampling)
    np.testing.assert_allclose(sampler.table().sigma, np.linspace(1, 0, 21)[:-1], atol=1e-12)
    model = load_dit(file, our_config(**SWITCHES, shared_timestep=preset.model.shared_timestep))
    contexts = np.random.default_rng(1).standard_normal((1, 2, 7, 12), np.float32)
    key, shape = jax.random.key(5), (1, 2, 2, 4, 4, 4)
    result = quick_jit(
        lambda model_state: generate(
            nnx.merge(nnx.graphdef(model), model_state),
            given=jnp.zeros(shape),
            wanted=(True, True),
            modality=jnp.asarray([[0, 4]]),
            context=jnp.asarray(contexts),
            null_context=jnp.zeros_like(contexts),
            key=key,
            config=sampler,
        )
    )(nnx.state(model))

    noise = np.moveaxis(np.asarray(stream_noise(key, shape, 0)), -1, 2)
    x = [torch.from_numpy(noise[:, s].copy()) for s in (0, 1)]
    texts = [torch.from_numpy(contexts[:, s]) for s in (0, 1)]
    levels = torch.linspace(1, 0, 21)
    with torch.no_grad():
        for now, after in itertools.pairwise(levels):
            velocity = release(*x, now[None], *texts, modality=NAMES[3])
            step = after - now
            x = [one + step * v.movedim(-1, 1) for one, v in zip(x, velocity, strict=True)]
    for stream in (0, 1):
        expected = np.moveaxis(x[stream].numpy(), 1, -1)
        library = "its model, Euler written out"
        name = "public release, 20 Euler steps"
        parity(name, library, result[:, stream], expected, bound=1e-4)


def test_round_trip_keeps_every_bit(file, tmp_path):
    model = load_dit(file, our_config(**SWITCHES))
    assert save_dit(model, tmp_path, layout="unityvideo") == []
    one, two = load_file(file), load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert set(one) == set(two)
    for name, weight in one.items():
        assert torch.equal(weight, two[name]), name


def test_other_switches_are_refused(file):
    with pytest.raises(UserError, match="the public UnityVideo release has 'additive'"):
        load_dit(file, our_config())
    few = our_config(**SWITCHES, modalities=("rgb", "depth", "flow"))
    with pytest.raises(UserError, match=r"has modality_embeddings\.\w+ \(40,\)"):
        load_dit(file, few)
