"""Memory and time of training and sampling in closed form, where compiling is not possible or slow.

Counts the work, memory and traffic of `models.dit.Block`, a layer at a time, and divides by the
rates of `rates`. Good to some percent where those were measured (tests/parallel/
test_closed_form.py), and for choosing among meshes elsewhere.
"""

import dataclasses
import math
from collections.abc import Mapping

from unityvideo_jax.models import quantised
from unityvideo_jax.models.config import DiTConfig, model_flops
from unityvideo_jax.models.lora import WHOLE, LoraConfig
from unityvideo_jax.parallel.chips import Chip
from unityvideo_jax.parallel.mesh import AXES
from unityvideo_jax.planning.rates import ELEMENTWISE_SHARE, Rates
from unityvideo_jax.planning.weights import Weights, weights_of

BFLOAT16, FLOAT32 = 2, 4
# Widths of the arrays that a layer's backward pass holds at once: of the residual stream and of the
# feed-forward's hidden layer.
_WORKING = (10, 4)
# And of a forward pass alone.
_WORKING_FORWARD = (6, 2)
# Arrays read and written around the matrix products and attention of one layer: norms with their
# modulation, RoPE, biases, gates, residuals, GELU. Of the widths of the residual stream, the heads,
# and the hidden layer. Counted before norms had kernels of their own, which need fewer; the share
# of the bandwidth is fitted to these counts. How many of them are the forward pass's is fitted to
# a sampling step.
_ARRAYS_FORWARD, _ARRAYS_BACKWARD = (16, 9, 2), (40, 21, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A training step, or a model call in sampling, on a mesh.

    Attributes:
      model: with its remat policy and its way of attending over split tokens.
      latent_shape: (time, height, width) of one stream's latents.
      streams: of a sample.
      batch: samples of all devices together.
      mesh: sizes by axis.
      moment_bytes: of one of the optimiser's two moments, per weight.
      keep_ema: whether training keeps an average of the weights.
      accumulation: micro-batches, one after the other.
      lora: what trains; adapters' own products are not counted, they are few.
    """

    model: DiTConfig
    latent_shape: tuple[int, int, int]
    streams: int
    batch: int
    mesh: Mapping[str, int]
    moment_bytes: int = 0
    keep_ema: bool = True
    accumulation: int = 1
    lora: LoraConfig = WHOLE

    @property
    def devices(self) -> int:
        """Devices of the mesh."""
        return math.prod(self.mesh.values())

    @property
    def shards(self) -> int:
        """Parts of the batch."""
        return self.mesh["slice"] * self.mesh["data"] * self.mesh["fsdp"]

    @property
    def sample_tokens(self) -> int:
        """Tokens of all streams of one sample."""
        return self.streams * math.prod(self.model.token_grid(self.latent_shape))

    @property
    def samples(self) -> int:
        """Samples of one device at once; `context` and `tensor` share them."""
        return self.batch // self.shards // self.accumulation

    @property
    def tokens(self) -> int:
        """Tokens of one device at once."""
        return self.samples * self.sample_tokens // self.mesh["context"]

    @property
    def texts(self) -> int:
        """Text tokens of one device at once."""
        return self.samples * (self.streams if self.model.in_context else 1) * self.model.text_len


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """One program. Bytes, FLOPs and seconds of one device.

    Attributes:
      step: what was estimated.
      samples: of all devices together.
      evaluations: 1 of a training step; the solver's of sampling.
      parameters: float32 weights, and in training their moving average; frozen ones as held.
      optimizer: its moments.
      copies: of the weights in the compute type, and gradients.
      saved: activations that the forward pass saves for the backward pass.
      working: memory of a layer while it runs.
      model_flops: of the model, nothing recomputed.
      seconds: by kind of work.
      sent: bytes by mesh axis.
      sending: seconds by mesh axis.
      chip, rates: the device.
    """

    step: Step
    samples: int
    evaluations: int = 1
    parameters: int
    optimizer: int = 0
    copies: int
    saved: int = 0
    working: int
    model_flops: float
    seconds: Mapping[str, float]
    sent: Mapping[str, float]
    sending: Mapping[str, float]
    chip: Chip
    rates: Rates

    @property
    def mesh(self) -> Mapping[str, int]:
        """Sizes of its axes."""
        return self.step.mesh

    @property
    def model(self) -> DiTConfig:
        """The model's configuration, with its remat policy and its way of splitting attention."""
        return self.step.model

    @property
    def memory(self) -> int:
        """All bytes that the program holds at once."""
        return self.parameters + self.optimizer + self.copies + self.saved + self.working

    @property
    def fits(self) -> bool:
        """Whether the device holds it, with room for errors of the closed form."""
        return self.rates.slack * self.memory <= self.chip.memory

    @property
    def step_seconds(self) -> float:
        """Time of work and its waits, or of traffic of weights and gradients if that is longer.

        What `context` and `tensor` send is needed at once; weights can be fetched, and gradients
        sent, while other layers compute, where the device does so (`Rates.overlap`).
        """
        traffic, work = sum(self.sending.values()), sum(self.seconds.values())
        if not self.rates.overlap:
            return work + traffic
        waits = self.sending.get("context", 0.0) + self.sending.get("tensor", 0.0)
        return max(work + waits, traffic - waits)


def estimate(step: Step, chip: Chip, rates: Rates) -> Estimate:
    """Estimates a training step whose mesh divides the model and the batch."""
    held = weights_of(step.model, step.lora, step.mesh)
    blocks, rest = held.kernels, held.rest
    weights, sent = blocks + rest, _sent(step, held)
    fsdp = step.mesh["fsdp"]
    layer = (blocks + held.frozen_kernels) * fsdp // step.model.num_layers  # gathered
    whole = fsdp > 1 or (step.lora.rank and step.lora.base in quantised.KINDS)
    forward = model_flops(step.model, step.latent_shape, step.streams)
    return Estimate(
        step=step,
        samples=step.batch,
        parameters=(1 + step.keep_ema) * FLOAT32 * weights + held.frozen,
        optimizer=2 * step.moment_bytes * weights,
        # Kernels are cast once; their gradients come in the compute type, and the optimiser takes
        # them so; where micro-batches add up, they are float32, the sum and what it grows by.
        copies=2 * BFLOAT16 * blocks + FLOAT32 * (rest if step.accumulation == 1 else 2 * weights),
        saved=step.model.num_layers * saved_bytes(step),
        # The gathered or restored weights of this layer and of the next, and this layer's gradient.
        working=_arrays(step, _WORKING) + (3 * BFLOAT16 * layer if whole else 0),
        model_flops=step.lora.passes * step.batch * forward / step.devices,
        seconds=_seconds(step, weights, rates),
        sent=sent,
        sending={axis: n / _bandwidth(axis, step.mesh, rates) for axis, n in sent.items()},
        chip=chip,
        rates=rates,
    )


def estimate_sampling(
    step: Step, evaluations: int, passes: int, chip: Chip, rates: Rates
) -> Estimate:
    """Estimates sampling `step.batch` samples, shared among devices that each hold all weights.

    Args:
      step: its mesh splits nothing but samples.
      evaluations: of the velocity, by the solver.
      passes: of the model in one evaluation, which guidance runs as one larger batch.
      chip, rates: the device.
    """
    call = dataclasses.replace(step, batch=step.batch * passes)
    held = weights_of(step.model, WHOLE, step.mesh)
    blocks, rest = held.kernels, held.rest
    count, work = evaluations * step.model.num_layers, _work(call)
    forward = model_flops(step.model, step.latent_shape, step.streams)
    return Estimate(
        step=step,
        samples=step.batch,
        evaluations=evaluations,
        parameters=FLOAT32 * (blocks + rest),
        copies=BFLOAT16 * blocks,
        working=_arrays(call, _WORKING_FORWARD),
        model_flops=evaluations * call.batch * forward / step.devices,
        seconds={
            "matrix products": (count * work.products + evaluations * work.edges) / rates.matmul,
            "attention": count
            * (work.self_attention + work.cross_attention)
            / rates.attention_forward,
            "element-wise": count
            * _arrays(call, _ARRAYS_FORWARD)
            / (ELEMENTWISE_SHARE * rates.copy),
        },
        sent={},
        sending={},
        chip=chip,
        rates=rates,
    )


def saved_bytes(step: Step) -> int:
    """Bytes that one layer saves between the passes, by the remat policy.

    Widths of arrays in the compute type: of the residual stream, of all heads, of the feed-forward,
    each of the device's part. "none" keeps what norms, RoPE and GELU return as well.
    """
    model, tensor = step.model, step.mesh["tensor"]
    stream = BFLOAT16 * step.tokens * model.dim
    heads, hidden = stream // tensor, BFLOAT16 * step.tokens * model.ffn_dim // tensor
    sums = FLOAT32 * step.tokens * model.num_heads // tensor  # log-sum-exp
    text = BFLOAT16 * step.texts * model.dim // tensor
    attention = stream + heads + sums
    products = attention + 3 * stream + 5 * heads + hidden + sums + 2 * text
    # Five more of the residual stream, but not what cross-attention adds to it.
    everything = products + 4 * stream + 3 * heads + hidden + text
    return {
        "full": stream,
        "attention": attention,
        "attention_ffn": attention + stream,
        "matmuls": products,
        "none": everything,
    }[model.remat]


def _arrays(step: Step, counts: tuple[int, ...]) -> int:
    """Bytes of so many arrays of the residual stream, (of the heads,) and of the hidden layer."""
    tensor = step.mesh["tensor"]
    widths = (step.model.dim, step.model.dim // tensor, step.model.ffn_dim // tensor)
    widths = widths if len(counts) == 3 else widths[::2]
    return BFLOAT16 * step.tokens * sum(n * w for n, w in zip(counts, widths, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """FLOPs of a forward pass on one device: of one layer, and of the model's edges."""

    products: int
    down: int  # the feed-forward's second product, one of `products`
    self_attention: int
    cross_attention: int
    edges: int


def _work(step: Step) -> _Work:
    model, tensor = step.model, step.mesh["tensor"]
    d, heads, hidden = model.dim, model.dim // tensor, model.ffn_dim // tensor
    tokens, texts = step.tokens, step.texts
    return _Work(
        products=tokens * 2 * (6 * d * heads + 2 * d * hidden) + texts * 4 * d * heads,
        down=2 * tokens * hidden * d,
        self_attention=4 * tokens * step.sample_tokens * heads,
        cross_attention=4 * tokens * model.text_len * heads,
        edges=4 * tokens * model.patch_dim * d + 2 * texts * (model.text_dim * d + d * d),
    )


def _seconds(step: Step, weights: int, rates: Rates) -> dict[str, float]:
    work, layers, remat = _work(step), step.model.num_layers, step.model.remat
    recomputed = {
        "full": work.products,
        "attention": work.products,
        "attention_ffn": work.products - work.down,
    }.get(remat, 0)
    self_runs = 2 if remat == "full" else 1
    cross_runs = 2 if recomputed else 1
    arrays = _arrays(step, _ARRAYS_FORWARD) * (1 if remat == "none" else 2)
    arrays += _arrays(step, _ARRAYS_BACKWARD)
    if step.model.scan_layers:
        arrays += 3 * saved_bytes(step)  # the stacks: made, written, read
    # Read: weight, gradient, moments, average; written: all but the gradient.
    update = weights * ((3 + 2 * step.keep_ema) * FLOAT32 + 4 * step.moment_bytes)
    attention = self_runs * work.self_attention + cross_runs * work.cross_attention
    attention_backward = 2 * (work.self_attention + work.cross_attention)
    products = step.lora.passes * (work.products + work.edges / layers) + recomputed
    times = step.accumulation * layers
    return {
        "matrix products": times * products / rates.matmul,
        "attention, forward": times * attention / rates.attention_forward,
        "attention, backward": times * attention_backward / rates.attention_backward,
        "element-wise and copies": times * arrays / (ELEMENTWISE_SHARE * rates.copy),
        "optimiser and average": update / rates.copy,
    }


def _sent(step: Step, held: Weights) -> dict[str, float]:
    """Bytes that a device sends along each mesh axis, by the ring algorithms."""
    model, mesh, times = step.model, step.mesh, step.accumulation
    share = {axis: (mesh[axis] - 1) / mesh[axis] for axis in AXES}
    gradient = BFLOAT16 * (held.kernels + held.rest)
    # Gathered in both passes; gradients of what trains are scattered.
    gathered = mesh["fsdp"] * (3 * gradient + 2 * held.frozen)
    stream = BFLOAT16 * step.tokens * model.dim
    heads, context = stream / mesh["tensor"], mesh["context"]
    recomputed = model.remat != "none"
    if model.attention_parallel == "ulysses":
        # Queries, keys, values and the output, in every pass.
        tokens = share["context"] * 4 * heads * (2 + recomputed)
    else:
        # Keys and values, again when the output was not saved; back with float32 gradients.
        rounds = (context - 1) * 2 * heads
        tokens = rounds * (2 + (model.remat == "full")) + context * 4 * heads * (context > 1)
    # After self-attention, cross-attention and the feed-forward, each way.
    sums = 6 + {"full": 3, "attention": 3, "attention_ffn": 2}.get(model.remat, 0)
    return {
        "slice": times * 2 * share["slice"] * gradient,
        "data": times * 2 * share["data"] * gradient,
        "fsdp": times * share["fsdp"] * gathered,
        "context": times * (model.num_layers * tokens + 2 * share["context"] * gradient),
        "tensor": times * model.num_layers * sums * 2 * share["tensor"] * stream,
    }


def _bandwidth(axis: str, mesh: Mapping[str, int], rates: Rates) -> float:
    """Bandwidth of one device along an axis: that of the slowest part of its ring.

    The last axes are the nearest. A ring through several hosts leaves each over the adapters of all
    its devices there.
    """
    if rates.domain is None:
        return rates.network if axis == "slice" else rates.links
    stride = math.prod(mesh[later] for later in AXES[AXES.index(axis) + 1 :])
    if stride * mesh[axis] <= rates.domain:
        return rates.links
    together = max(1, rates.domain // stride)
    return min(rates.links, together * rates.network)
