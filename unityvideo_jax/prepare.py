r"""Writes latent shards from procedural worlds, from videos with ground truth, or from raw videos.

Command: python -m unityvideo_jax.prepare --source=worlds --workdir=shards --num_clips=256
         python -m unityvideo_jax.prepare --source=FOLDER --workdir=shards --height=128 --width=128
         python -m unityvideo_jax.prepare --source=FOLDER --workdir=shards \
             --sizes=17x128x128,17x96x160,1x128x128
         python -m unityvideo_jax.prepare --source=clips.csv --workdir=shards
         python -m unityvideo_jax.prepare --source=PACKED --workdir=shards
         python -m unityvideo_jax.prepare --config=openuni_local --source=VIDEOS \
             --workdir=openuni

The last form curates raw videos first: `docs/curation.md`. The same command again resumes where a
killed one stopped. A clip that cannot be read does not stop the others; at the end the faults are
listed and the status is 2, unless --allow_faults finishes without such clips. With further
--modalities it adds their series to a finished dataset.

With --sizes each clip goes to the size that it fills best: the most frames that it has, then the
nearest aspect. Worlds are rendered in every size. `docs/buckets.md` says how to train on them.

`unityvideo_jax/inputs/folder.py` describes FOLDER's files, `inputs/manifest.py` the CSV,
`data/openuni/README.md` the PACKED files of `unityvideo_jax.pack`, and `data/latents/README.md` the
shards.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from unityvideo_jax import cli, units
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import assigning, clip_shards, manifest, shards
from unityvideo_jax.inputs.buckets import size_name
from unityvideo_jax.inputs.encode import load_encoder
from unityvideo_jax.inputs.folder import FolderSource
from unityvideo_jax.inputs.preparing import prepare
from unityvideo_jax.inputs.sized import folders_of
from unityvideo_jax.inputs.sources import Source, WorldsSource
from unityvideo_jax.inputs.video_files import VideoFiles
from unityvideo_jax.models.sizes import check_frames, check_pixels
from unityvideo_jax.models.text.encoder import LENGTH
from unityvideo_jax.pretrained.text import load_text_encoder
from unityvideo_jax.pretrained.vae import check_unoccupied
from unityvideo_jax.runtime import capacity

DEFAULT_WORLDS, DEFAULT_FPS = 64, 8.0
# Names by which shards record the source of their clips.
KINDS = {
    WorldsSource: "worlds",
    FolderSource: "folder",
    manifest.ManifestSource: "manifest",
    clip_shards.ClipShardsSource: "packed",
}
# Flags that a configuration replaces.
NOT_OF_CURATION = (
    "modalities", "num_clips", "num_frames", "height", "width", "fps", "depth_unit", "split",
    "seed", "vae", "text_encoder", "text_length", "chunk_size", "batch_size", "allow_faults",
    "registry_prompt_rate", "depth_codec", "closeup", "sizes", "every_size",
)  # fmt: skip
# Flags that worlds alone read, and those that files alone do.
OF_WORLDS = ("seed", "closeup", "registry_prompt_rate")
OF_FILES = ("depth_unit", "every_size")


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_config("A curation; --source holds raw videos.")
    cli.define_path("source", None, "'worlds', a folder of videos, a CSV, or packed clips.")
    cli.define_path(
        "workdir", None, "Where to write; shards go to WORKDIR/latents.", writes="folder"
    )
    flags.DEFINE_list("modalities", list(registry.BUILT_IN), "Series to write, rgb among them.")
    flags.DEFINE_integer(
        "num_clips", None, f"Clips to write. Default: {DEFAULT_WORLDS} worlds, or all of a folder."
    )
    flags.DEFINE_integer("num_frames", 17, "Frames per clip, 4n+1.")
    flags.DEFINE_integer("height", 64, "Pixels, a multiple of 16 (with Wan 2.2's VAE of 32).")
    flags.DEFINE_integer("width", 64, "Pixels, likewise.")
    flags.DEFINE_list(
        "sizes",
        [],
        "Several sizes instead, as FRAMESxHEIGHTxWIDTH, each into a folder of its own in WORKDIR.",
    )
    flags.DEFINE_bool(
        "every_size", False, "Write each clip in every one of --sizes that it has the frames for."
    )
    flags.DEFINE_float(
        "fps",
        0.0,
        f"Frames per second; 0 means {DEFAULT_FPS:g} for worlds, a folder's own rate.",
    )
    flags.DEFINE_enum(
        "depth_unit",
        "",
        ["", *units.NAMES],
        "Unit of stored depth without a .json beside it. Default: metres in .npz and floats, "
        "millimetres in 16-bit pictures.",
    )
    flags.DEFINE_string("split", "train", "Which worlds or packed clips, such as validation.")
    flags.DEFINE_float(
        "registry_prompt_rate",
        0.5,
        "Share of worlds with the registry's modality prompts instead of the scene's own.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_float(
        "closeup",
        0.0,
        "Share of worlds with the camera close to a person.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_bool("allow_faults", False, "Finish without clips that cannot be read.")
    flags.DEFINE_enum(
        "depth_codec",
        "relative",
        list(registry.get("depth").variants),
        "How depth is drawn: in each clip's own range, or in metres, for data in metres.",
    )
    cli.define_seed("seed", "Seed of the worlds.")
    cli.define_path("vae", "", "Folder of a VAE, ours or Wan's. Default: the shipped one.")
    flags.DEFINE_string("text_encoder", "words", "'words', 'minilm' or 'umt5:FOLDER'.")
    flags.DEFINE_integer("text_length", LENGTH, "Tokens per text; longer texts are cut.")
    flags.DEFINE_integer("chunk_size", 16, "Clips per staged file: what a kill can cost at most.")
    flags.DEFINE_integer("batch_size", 8, "Clips that one VAE call encodes.")


def make_source(args: Any, size: tuple[int, int, int]) -> Source:
    """Makes the source that the flags name.

    Args:
      args: the flags.
      size: frames, height and width of the clips.

    Raises:
      UserError: a split that does not exist, or a fault of the folder.
    """
    if args.num_clips is not None and args.num_clips < 1:
        raise UserError(f"--num_clips={args.num_clips}: give at least 1")
    if args.fps < 0:
        raise UserError(f"--fps={args.fps:g}: must be positive, or 0 for the default")
    if args.source != "worlds":
        cli.refuse(OF_WORLDS, "is for --source=worlds; leave it out")
        return _files(args, size)
    cli.refuse(OF_FILES, "is for --source=FOLDER; leave it out")
    from unityvideo_jax import worlds

    if args.split not in worlds.SPLITS:
        raise UserError(f"--split={args.split}: use one of {', '.join(worlds.SPLITS)}")
    frames, height, width = size
    config = worlds.WorldConfig(
        height=height,
        width=width,
        num_frames=frames,
        fps=args.fps or DEFAULT_FPS,
        split=args.split,
        seed=args.seed,
        closeup=args.closeup,
    )
    count = args.num_clips or DEFAULT_WORLDS
    # Latents and texts in float16, by the autoencoders that compress most.
    cells = -(-frames // 4) * (height // 16) * (width // 16)
    capacity.check_disk(
        2 * count * len(args.modalities) * (16 * cells + 256 * args.text_length),
        args.workdir,
        f"--num_clips={count}",
        "prepare fewer or smaller clips",
    )
    return WorldsSource(
        config,
        count,
        args.registry_prompt_rate,
        codecs={"depth": args.depth_codec},
    )


def _files(args: Any, size: tuple[int, int, int]) -> VideoFiles:
    """The source of files that --source names."""
    target = dict(zip(("num_frames", "height", "width"), size, strict=True))
    target |= {"fps": args.fps, "depth_unit": args.depth_unit}
    target["codecs"] = {"depth": args.depth_codec}
    source = pathlib.Path(args.source)
    packed = clip_shards.find_card(source)
    if not packed:
        cli.refuse(["split"], "is of worlds and packed clips; leave it out")
    if source.suffix.lower() == ".csv":
        return manifest.ManifestSource(
            source,
            args.modalities,
            num_clips=args.num_clips,
            allow_faults=args.allow_faults,
            **target,
        )
    if packed:
        return clip_shards.ClipShardsSource(
            source, args.modalities, split=args.split, num_clips=args.num_clips, **target
        )
    return FolderSource(
        source,
        args.modalities,
        num_clips=args.num_clips,
        allow_faults=args.allow_faults,
        **target,
    )


def curate(args: Any) -> None:
    """Curates raw videos as --config says.

    Raises:
      UserError: flags beside it that the configuration decides.
    """
    from unityvideo_jax.curation import program

    why = "not with --config, which says all but --source (a folder of videos) and --workdir"
    cli.refuse(NOT_OF_CURATION, why)
    if args.source == "worlds":
        raise UserError(f"--source=worlds: {why}")
    start = time.monotonic()
    cards = program.curate(cli.read_config(args.config), source=args.source, workdir=args.workdir)
    for group, card in cards.items():
        print(
            f"{pathlib.Path(args.workdir) / group / 'latents'}: {card.count} clips of "
            f"{', '.join(card.modalities)}, latents {'x'.join(map(str, card.latent_shape))}",
            flush=True,
        )
    print(f"in {time.monotonic() - start:.0f} s", flush=True)


def main(argv: Sequence[str]) -> None:
    """Prepares the shards that the flags describe."""
    del argv
    args = flags.FLAGS
    for name in ("source", "workdir"):
        if not getattr(args, name):
            raise UserError(f"--{name} is missing; see --help")
    check_unoccupied(args.workdir, "--workdir")
    if args.config is not None:
        curate(args)
        return
    # Before the slow imports and compilations, since these mistakes are frequent.
    sizes = _sizes(args)
    for name in args.modalities:
        registry.get(name)

    start = time.monotonic()
    parts = _parts(args, sizes)
    encoder = load_encoder(args.vae)
    texts = load_text_encoder(args.text_encoder, args.text_length)
    failed: UserError | None = None
    for part in parts:
        if failed:
            # A clip that cannot be read does not stop the sizes that follow.
            print(f"error: {failed}", file=sys.stderr, flush=True)
        failed = None
        try:
            card = prepare(
                part.source,
                encoder,
                texts,
                workdir=part.folder,
                modalities=args.modalities,
                num_frames=part.size[0],
                height=part.size[1],
                width=part.size[2],
                chunk_size=args.chunk_size,
                batch_size=args.batch_size,
                extra_settings={"source": KINDS[type(part.source)]},
                allow_faults=args.allow_faults,
                cropped=part.cropped,
            )
        except UserError as error:
            failed = error
            continue
        print(
            f"{part.folder}/latents: {card.count} clips of {', '.join(card.modalities)}, latents "
            f"{'x'.join(map(str, card.latent_shape))}, in {time.monotonic() - start:.0f} s",
            flush=True,
        )
    if failed:
        raise failed


def _sizes(args: Any) -> tuple[tuple[int, int, int], ...]:
    """Frames, height and width of what the flags ask for.

    Raises:
      UserError: a size that the autoencoder does not take, flags that contradict each other, or a
        workdir that holds shards of the other layout.
    """
    own = [name for name in ("num_frames", "height", "width") if args[name].present]
    if not args.sizes:
        if args.every_size:
            raise UserError("--every_size: is for --sizes; leave it out")
        check_frames(args.num_frames, "--num_frames")
        check_pixels(args.height, "--height")
        check_pixels(args.width, "--width")
        if (held := folders_of(args.workdir)) != [args.workdir]:
            raise UserError(
                f"{args.workdir}: holds {held[0]} and so several sizes; give another --workdir, or "
                "--sizes to add to them"
            )
        return ((args.num_frames, args.height, args.width),)
    if own:
        raise UserError(f"--{own[0]}: --sizes says it; leave one of them out")
    if shards.root_of(args.workdir).exists():
        raise UserError(
            f"{shards.root_of(args.workdir)}: holds shards of one size; give another --workdir for "
            "--sizes"
        )
    return assigning.parse_sizes(args.sizes, "--sizes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """The clips of one size, where their shards go, and the share of their pixels cut off."""

    folder: str | pathlib.Path
    size: tuple[int, int, int]
    source: Source
    cropped: float = 0.0


def _parts(args: Any, sizes: Sequence[tuple[int, int, int]]) -> list[_Part]:
    """The parts to prepare: one, or one for each of --sizes."""
    if not args.sizes:
        return [_Part(folder=args.workdir, size=sizes[0], source=make_source(args, sizes[0]))]
    folders = {size: pathlib.Path(args.workdir) / size_name(size) for size in sizes}
    if args.source == "worlds":
        return [
            _Part(folder=folder, size=size, source=make_source(args, size))
            for size, folder in folders.items()
        ]
    parts = assigning.assign(make_source(args, sizes[0]), sizes, every=args.every_size)
    print("\n".join(assigning.lines(parts)), flush=True)
    return [
        _Part(folder=folders[size], size=size, source=part.source, cropped=part.cropped)
        for size, part in parts.items()
    ]


if __name__ == "__main__":
    define_flags()
    cli.run(main)
