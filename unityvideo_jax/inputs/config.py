"""The keys of `config.data`, checked before anything is opened."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import stores
from unityvideo_jax.inputs import buckets
from unityvideo_jax.inputs.buckets import Bucket
from unityvideo_jax.models.sizes import check_frames, check_pixels
from unityvideo_jax.settings.sections import check_keys, check_values

# Keys that sampling and evaluation read in a run's folder, so that none may be left out.
READ_LATER = ("num_frames", "height", "width", "fps", "vae", "text_encoder", "text_length")
VAE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The keys of `config.data`.

    Attributes:
      kind: 'shards' reads what `unityvideo_jax.prepare` wrote; 'online' renders worlds.
      dirs: folders given to prepare as --workdir; shards only.
      dir_weights: relative draw frequency of each folder; empty means equal.
      modality_weights: relative draw frequency of each modality that joins RGB; by default the
        registry's of the built-in ones. `inputs.shares` says how they hold together with
        `dir_weights`.
      streams: relative frequency of steps whose samples have 1, 2, ... streams; its length is the
        most that is trained. (0, 1) trains RGB with one modality, (1,) single streams, (1, 2, 0, 1)
        up to four, with modalities that differ.
      buckets: shapes that steps may have, as dicts with the keys of `inputs.buckets.Bucket`; empty
        is one, of num_frames x height x width, which otherwise are the size of contact sheets, of
        evaluation and of samples by default.
      batch_multiple: batch sizes of buckets that name none are multiples of it; 0 is the number of
        parts that the mesh and accumulation divide a batch into when the run starts.
      rgb_alone: share of the samples of one stream that show RGB; the others show a modality.
      never_together: pairs of modalities of which no sample holds both, to ask later whether the
        model can put together what it has only seen apart.
      caption_dropout: probability that the caption becomes the null context (UnityVideo sec. 4.1;
        public release: 0.1).
      prompt_dropout: the same for the modality prompt (public release: 0).
      registry_prompt_rate: share of online worlds whose modality prompt is the registry's, which
        sampling uses by default, instead of the scene's own; segmentation then shows every person
        and object. Shards carry their prompts (`prepare --registry_prompt_rate`).
      num_frames: 4n+1.
      height, width: pixels, divisible by 16 (with Wan 2.2's VAE by 32).
      fps: frames per second of rendered worlds.
      split: of the worlds to render; shards carry their own.
      closeup: share of rendered worlds whose camera is close to a person.
      repeats: steps that a sample of online worlds is used for; noise, timestep, task and the
        samples beside it differ.
      depth_codec: how depth is drawn, 'relative' (each clip's own range, for any data) or 'metric'
        (fixed bounds in metres, for data in metres, such as worlds).
      text_encoder, text_length: as `pretrained.text.load_text_encoder` takes them.
      vae: folder of VAE weights, as `pretrained.vae.find_vae` takes it; '' is the shipped one.
      vae_dtype: compute type in which worlds are encoded online, "float32" or "bfloat16".
      num_workers: reader processes; 0 reads in threads, which is faster unless decoding is heavy.
      read_threads: reader threads per process.

    Raises:
      UserError: a value out of range, named with its fix.
    """

    kind: str = "shards"
    dirs: tuple[str, ...] = ()
    dir_weights: tuple[float | int, ...] = ()
    modality_weights: Mapping[str, float | int] = dataclasses.field(
        default_factory=lambda: {
            name: registry.get(name).sampling_weight for name in registry.BUILT_IN[1:]
        }
    )
    streams: tuple[float | int, ...] = (0.0, 1.0)
    buckets: tuple[Bucket, ...] = ()
    batch_multiple: int = 0
    rgb_alone: float | int = 1.0
    never_together: tuple[tuple[str, str], ...] = ()
    caption_dropout: float | int = 0.1
    prompt_dropout: float | int = 0.0
    registry_prompt_rate: float | int = 0.0
    num_frames: int = 17
    height: int = 64
    width: int = 64
    fps: float | int = 8.0
    split: str = "train"
    closeup: float | int = 0.0
    repeats: int = 1
    depth_codec: str = "relative"
    text_encoder: str = "words"
    text_length: int = 104
    vae: str = ""
    vae_dtype: str = "float32"
    num_workers: int = 0
    read_threads: int = 4

    def __post_init__(self):
        if self.kind not in ("shards", "online"):
            raise UserError(f"config.data.kind={self.kind!r}: use 'shards' or 'online'")
        if stored := [name for name in self.dirs if stores.url(name)]:
            raise UserError(
                f"config.data.dirs: {stored[0]!r}: ArrayRecord reads shards at random places of "
                "files, and none in an object store; mount the bucket (gcsfuse, mountpoint-s3) and "
                "name the folder that it is mounted at: docs/stores.md"
            )
        if self.kind == "shards" and not self.dirs:
            raise UserError(
                "config.data.dirs is empty: name the folders that `python -m unityvideo_jax.prepare"
                "` wrote, or set config.data.kind='online' to render worlds"
            )
        if self.dir_weights and len(self.dir_weights) != len(self.dirs):
            raise UserError(
                f"config.data.dir_weights has {len(self.dir_weights)} entries for "
                f"{len(self.dirs)} dirs; give one per folder, or () for equal weights"
            )
        check_weights(dict(zip(self.dirs, self.dir_weights, strict=False)), "dir_weights")
        check_weights(self.modality_weights, "modality_weights")
        check_weights({str(n): weight for n, weight in enumerate(self.streams, 1)}, "streams")
        if not any(self.streams):
            raise UserError(
                f"config.data.streams={self.streams}: give steps with 1, 2, ... streams weights, "
                "such as (0, 1) for RGB with one modality"
            )
        for pair in self.never_together:
            if len(pair) != 2 or set(pair) - {*self.modality_weights}:
                raise UserError(
                    f"config.data.never_together: {pair} is no pair of names in "
                    f"config.data.modality_weights ({', '.join(self.modality_weights)})"
                )
        if self.vae_dtype not in VAE_DTYPES:
            raise UserError(f"config.data.vae_dtype={self.vae_dtype!r}: use one of {VAE_DTYPES}")
        registry.chosen_codec("depth", self.codecs, "config.data.depth_codec")
        check_frames(self.num_frames, "config.data.num_frames")
        check_pixels(self.height, "config.data.height")
        check_pixels(self.width, "config.data.width")
        rates = ("caption_dropout", "prompt_dropout", "registry_prompt_rate", "closeup")
        for name in (*rates, "rgb_alone"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"config.data.{name}={getattr(self, name)}: give 0 to 1")
        if self.kind == "shards" and self.registry_prompt_rate:
            raise UserError(
                f"config.data.registry_prompt_rate={self.registry_prompt_rate}: shards carry their "
                "prompts; set it to 0, and give prepare --registry_prompt_rate"
            )
        if self.batch_multiple < 0:
            raise UserError(f"config.data.batch_multiple={self.batch_multiple}: give 0 or more")
        if self.repeats < 1:
            raise UserError(f"config.data.repeats={self.repeats}: must be at least 1")
        if not 0 < self.fps < math.inf:
            raise UserError(f"config.data.fps={self.fps}: must be positive")
        if self.num_workers < 0 or self.read_threads < 1:
            raise UserError("config.data: num_workers must be >= 0 and read_threads >= 1")

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width of contact sheets, evaluation and samples."""
        return self.num_frames, self.height, self.width

    def shapes(self, batch_size: int) -> tuple[Bucket, ...]:
        """The shape of every step, each with its streams, samples and weight.

        Args:
          batch_size: `config.train.batch_size`: samples per step without buckets; with them, of a
            step of num_frames x height x width with the most streams that `streams` draws, whose
            tokens the batch sizes of buckets are chosen by.
        """
        weights = {count: float(w) for count, w in enumerate(self.streams, 1) if w}
        frames, height, width = self.size
        one = Bucket(frames=frames, height=height, width=width, batch_size=batch_size)
        like = dataclasses.replace(one, streams=max(weights))
        drawn = buckets.by_streams(self.buckets or (one,), weights)
        return buckets.with_batch_sizes(drawn, like, self.batch_multiple or 1)

    @property
    def max_streams(self) -> int:
        """The most streams of a sample."""
        return max(bucket.streams for bucket in self.shapes(1))

    @property
    def codecs(self) -> dict[str, str]:
        """The variant of the codec by modality, where one may choose."""
        return {"depth": self.depth_codec}

    def weights_of_dirs(self) -> tuple[float, ...]:
        """One weight per folder, ones if none were given."""
        return tuple(float(w) for w in self.dir_weights) or (1.0,) * len(self.dirs)


def as_data_config(config: object) -> DataConfig:
    """Makes a DataConfig from itself or from a dict-like `config.data`.

    Raises:
      UserError: a key that does not exist, or a bad value.
    """
    if isinstance(config, DataConfig):
        return config
    values = dict(config.items())
    check_keys(values, [field.name for field in dataclasses.fields(DataConfig)], "config.data.")
    check_values(DataConfig, values, "config.data.")
    if "modality_weights" in values:
        values["modality_weights"] = dict(values["modality_weights"].items())
    for name in ("dirs", "dir_weights", "streams", "buckets"):
        if name in values:
            values[name] = tuple(values[name])
    if "never_together" in values:
        values["never_together"] = tuple(map(tuple, values["never_together"]))
    if "buckets" in values:
        values["buckets"] = buckets.parse(values["buckets"], "config.data.buckets")
    return DataConfig(**values)


def check_weights(weights: Mapping[str, float | int], name: str) -> None:
    """Raises UserError for a weight that is negative or not finite."""
    for key, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise UserError(f"config.data.{name}[{key!r}]={weight}: must be finite and >= 0")


def stage_modality_weights(
    config: DataConfig, modalities: Iterable[str], stage_weights: Mapping[str, float | int] | None
) -> dict[str, float]:
    """The modalities that join RGB and their weights, in the order of `modalities`.

    Args:
      config: its `modality_weights` hold unless `stage_weights` are given.
      modalities: all modalities of the model, 'rgb' among them.
      stage_weights: weights of the current curriculum stage; the modalities that it leaves out, or
        weighs 0, are not drawn.

    Returns:
      Weights that sum to one; none where RGB alone is trained.

    Raises:
      UserError: an unknown modality, nothing left to draw, or fewer modalities than
        `config.streams` asks for.
    """
    modalities = tuple(modalities)
    if config.max_streams == 1 and config.rgb_alone == 1:
        return {}
    name = "modality_weights" if stage_weights is None else "stage_weights"
    weights = dict((config.modality_weights if stage_weights is None else stage_weights).items())
    check_weights(weights, name)
    if registry.RGB not in modalities:
        raise UserError("config.model.modalities lacks 'rgb', which every sample contains")
    if unknown := [m for m in weights if m not in modalities]:
        raise UserError(
            f"{name}: unknown modality {unknown[0]!r}; config.model.modalities knows "
            f"{', '.join(m for m in modalities if m != registry.RGB)}"
        )
    if weights.get(registry.RGB):
        raise UserError(f"{name}['rgb']: RGB is in every sample already; leave it out")
    drawn = {m: float(weights[m]) for m in modalities if weights.get(m)}
    if not drawn:
        raise UserError(f"{name}: no modality with a positive weight; give at least one")
    if config.max_streams > 1 + len(drawn):
        raise UserError(
            f"config.data.{'buckets' if config.buckets else f'streams={tuple(config.streams)}'} "
            f"draws {config.max_streams} streams, RGB and {config.max_streams - 1} modalities, but "
            f"{name} has {len(drawn)} ({', '.join(drawn)}); draw fewer, or give weights to more "
            "modalities"
        )
    total = sum(drawn.values())
    return {m: w / total for m, w in drawn.items()}
