"""Samples per second that the input delivers, beside the rate of a step.

From latent shards: writes shards of noise latents, which do not compress, with text that is zero
after its last token, as prepare writes it, and reads them as `train` does. Files come from memory,
for they were just written. With --online, worlds rendered and encoded on this device instead.

Command: python benchmarks/inputs.py --latents=5,8,8,16 --text=48,256 --batch=160
         python benchmarks/inputs.py --latents=13,60,104,16 --text=512,4096 --batch=1 --clips=48
         python benchmarks/inputs.py --online=configs/worlds_small.py --batch=160
"""

import argparse
import datetime
import itertools
import os
import pathlib
import runpy
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import psutil
from absl import flags

from unityvideo_jax import modalities as registry

MODALITIES = ("rgb", "depth")
# The input should deliver this many times the samples of a step.
AIM = 5


def write_shards(
    directory: pathlib.Path,
    latents: tuple[int, ...],
    text: tuple[int, int],
    tokens: int,
    clips: int,
) -> None:
    """Finished shards of `clips` clips in each of MODALITIES; `tokens` of a text are not zero."""
    from unityvideo_jax.inputs import shards
    from unityvideo_jax.inputs.encode import vae_id_or_none

    def records() -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(0)
        for number in range(clips):
            embedding = np.zeros(text, np.float16)
            embedding[:tokens] = rng.standard_normal((tokens, text[1]), np.float32)
            yield {
                "key": f"clip-{number:06d}",
                "latents": rng.standard_normal(latents, np.float32).astype(np.float16),
                "text": "A person in a red shirt walks past a blue ball.",
                "embedding": embedding,
            }

    for modality in MODALITIES:
        shards.write_series(
            directory,
            modality,
            records,
            count=clips,
            latent_shape=latents,
            embedding_shape=text,
            side_shapes={},
        )
    root = shards.root_of(directory)
    np.save(root / shards.NULL_CONTEXT_NAME, np.zeros(text, np.float16))
    shards.write_card(
        directory,
        shards.Card(
            count=clips,
            num_frames=4 * latents[0] - 3,
            height=8 * latents[1],
            width=8 * latents[2],
            fps=8.0,
            latent_shape=latents,
            vae=vae_id_or_none("") or "none",
            text_encoder="words",
            text_length=text[0],
            text_dim=text[1],
            modalities=MODALITIES,
            codecs={name: registry.get(name).codec.version for name in MODALITIES},
            settings={},
        ),
    )


def from_shards(
    directory: pathlib.Path, args: argparse.Namespace, workers: int, threads: int
) -> tuple[float, float]:
    """Samples per second in the host's memory, and CPU seconds per sample of all processes."""
    from unityvideo_jax.inputs.pipeline import make_iterator

    config = dict(
        dirs=(os.fspath(directory),),
        modality_weights={name: 1.0 for name in MODALITIES[1:]},
        num_frames=4 * args.latents[0] - 3,
        height=8 * args.latents[1],
        width=8 * args.latents[2],
        text_length=args.text[0],
        num_workers=workers,
        read_threads=threads,
    )
    iterator = make_iterator(config, MODALITIES, batch_size=args.batch, seed=0)
    # What was read ahead must not count: as many batches as the buffers hold go first.
    for _ in range(4 * threads + 2 * workers + 1):
        next(iterator)
    start, busy, count = time.perf_counter(), cpu_seconds(), 0
    while (seconds := time.perf_counter() - start) < args.seconds or count < 3:
        next(iterator)
        count += args.batch
    return count / seconds, (cpu_seconds() - busy) / count


def cpu_seconds() -> float:
    """Spent so far by this process and by its reader processes."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def online(args: argparse.Namespace) -> float:
    """Samples per second of worlds rendered and encoded, the device doing nothing else."""
    from unityvideo_jax.inputs.config import as_data_config
    from unityvideo_jax.inputs.online import OnlineWorlds

    config = runpy.run_path(args.online)["get_config"]()
    worlds = OnlineWorlds(as_data_config(config.data), config.model.modalities, args.batch, seed=0)
    jax.block_until_ready(next(worlds)["latents"])
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < args.seconds or count < 3 * args.batch:
        jax.block_until_ready(next(worlds)["latents"])
        count += args.batch
    return count / seconds


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(n) for n in text.split(","))

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=numbers, default=(5, 8, 8, 16), help="t,h,w,C")
    parser.add_argument("--text", type=numbers, default=(48, 256), help="tokens,width")
    parser.add_argument("--tokens", type=int, default=0, help="that are not zero; 0: a quarter")
    parser.add_argument("--batch", type=int, default=160)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--workers", type=numbers, default=(0, 2), help="reader processes")
    parser.add_argument("--threads", type=numbers, default=(1, 2, 4), help="in each")
    parser.add_argument("--seconds", type=float, default=10.0, help="to read for, each")
    parser.add_argument("--takes", type=float, default=0.0, help="samples/s that a step takes")
    parser.add_argument("--online", default="", help="config whose worlds to render instead")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    args = parse(argv)
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes read some of their own
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    print(
        f"{date}, {os.cpu_count()} CPU cores, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    if args.online:
        speed = online(args)
        print(f"{args.online}, batches of {args.batch}: {speed:.2f} samples/s")
        return
    half = 4 * int(np.prod(args.latents))
    text = 4 * int(np.prod(args.text))
    print(f"a sample: {half / 1e6:.2f} MB of latents, {text / 1e6:.2f} MB of text\n")
    columns = ["workers", "threads", "samples/s", "latents MB/s", "CPU ms per sample"]
    columns += ["x the step", f"cores for {AIM} x"] if args.takes else []
    print(f"| {' | '.join(columns)} |\n|{' ---: |' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        tokens = args.tokens or args.text[0] // 4
        write_shards(directory, args.latents, args.text, tokens, args.clips)
        for workers, threads in itertools.product(args.workers, args.threads):
            speed, busy = from_shards(directory, args, workers, threads)
            cells = [f"{speed:.0f}", f"{speed * half / 1e6:.0f}", f"{busy * 1e3:.2f}"]
            if args.takes:
                cells += [f"{speed / args.takes:.1f}", f"{AIM * args.takes * busy:.2f}"]
            print(f"| {workers} | {threads} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
