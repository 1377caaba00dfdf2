"""A small curation in its own process, by Beam or locally: SOURCE WORKDIR [OPTION ...]."""

import json
import pathlib
import sys

import ml_collections
from poison_stages import Poison

from unityvideo_jax.curation import manifest, program, registry, runner
from unityvideo_jax.curation.beam import Beam
from unityvideo_jax.curation.stage import Job


def stages(count_in):
    config = ml_collections.ConfigDict(
        {
            "stages": ("probe", "length", "cut", "captions"),
            "length": dict(min_seconds=0.5),
            "cut": dict(num_frames=5, fps=8.0, short_side=32, max_clips=3),
        }
    )
    *chain, captions = registry.build(config)
    return [*chain, Poison(count_in=str(count_in)), captions]


def main(source, workdir, *options):
    job = Job(source=source, workdir=workdir)
    counts = pathlib.Path(workdir).parent / "counts"
    counts.mkdir(exist_ok=True)
    mapper = Beam(options=options, clips_per_part=2, clip_seconds=8.0) if options else None
    clips = runner.run_job(stages(counts), job, num_workers=1, mapper=mapper)
    manifest.write(workdir, list(clips.values()))
    accepted = [clip for clip in clips.values() if not clip.rejected_by]
    encode = ml_collections.ConfigDict(
        dict(height=32, width=32, vae="", text_encoder="words", text_length=8, chunk_size=4,
             batch_size=2)
    )  # fmt: skip
    cards = program.encode_groups(accepted, job, encode, 5)
    print(json.dumps({group: card.count for group, card in cards.items()}))
    assert not {"tensorflow", "torch"} & set(sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
