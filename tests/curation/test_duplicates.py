import itertools

import imagehash
import made_videos
import numpy as np
import pytest
from PIL import Image

from unityvideo_jax.curation import stage
from unityvideo_jax.curation.duplicates import Duplicates, Fingerprint
from unityvideo_jax.curation.stage import Clip, Job
from unityvideo_jax.errors import UserError


def clip(key, bits, kilobits=100.0, width=64):
    scores = {"phash": f"{bits:048x}", "kilobits": kilobits, "width": width, "height": 64}
    return Clip(key=key, video="v.mp4", scores=scores)


def first_of_each(clips, max_bits):
    found = Duplicates(max_bits=max_bits)(clips)
    assert [c.key for c in found] == sorted(c.key for c in clips)
    return [c.key for c in found if not c.rejected_by]


def test_fingerprints_are_imagehash_of_first_middle_and_last():
    frames = made_videos.moving(9)
    job = Job(source="", workdir="")
    (found,) = stage.run((Fingerprint(),), Clip(key="a", video="a", frames=frames), job).clips
    expected = [str(imagehash.phash(Image.fromarray(frames[i]))) for i in (0, 4, 8)]
    assert found.scores["phash"] == "".join(expected)


@pytest.mark.parametrize("max_bits", [0, 5, 12, 40])
def test_bands_find_all_that_comparing_every_pair_finds(max_bits):
    rng = np.random.default_rng(0)
    bases = [int.from_bytes(rng.bytes(24), "big") for _ in range(12)]
    clips = []
    for n in range(150):
        bits = bases[n % len(bases)]
        for place in rng.choice(192, rng.integers(0, 30), replace=False):
            bits ^= 1 << int(place)
        clips.append(clip(f"{n:03d}", bits))
    expected = []
    for c in clips:
        bits = int(c.scores["phash"], 16)
        near = (
            (bits ^ int(other.scores["phash"], 16)).bit_count() <= max_bits for other in expected
        )
        if not any(near):
            expected.append(c)
    assert first_of_each(clips, max_bits) == [c.key for c in expected]
    assert 12 <= len(expected) < 150 or max_bits == 0


def test_the_best_of_those_alike_stays_whatever_the_order():
    clips = [
        clip("a", 0b0, kilobits=50.0),
        clip("b", 0b1, kilobits=90.0),
        clip("c", 0b11, kilobits=10.0, width=128),
        clip("d", (1 << 192) - 1),
    ]
    for order in itertools.permutations(clips):
        assert first_of_each(list(order), 4) == ["c", "d"]
    (lost, *_) = Duplicates(max_bits=4)(clips)
    assert lost.reason == "2 of 192 bits from c"


def test_too_many_bits_are_refused():
    with pytest.raises(UserError, match="max_bits=100"):
        Duplicates(max_bits=100)
