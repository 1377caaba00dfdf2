"""The text encoder 'words': a table of word vectors that ships, spelling, context and place."""

import dataclasses
import functools
import hashlib
import string
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int8

from unityvideo_jax.models.text.minilm import split_words

# How the 256 numbers of a token of 'words' are spent.
MEANING, SPELLING, CONTEXT, POSITION = 144, 40, 48, 24
WEIGHTS = {"meaning": 1.0, "spelling": 0.6, "context": 0.6, "position": 0.35}
# Weight of a word in the context of the next word but k: DECAY ** k.
DECAY = 0.5
# Punctuation and articles take room in a fixed length and carry no meaning.
SKIPPED = frozenset(string.punctuation) | {"a", "an", "the"}
END = "\x03"  # the word that ends every text


def _signs(text: str, dim: int) -> Float[np.ndarray, " {dim}"]:
    """`dim` signs from a hash of the text: the same on every machine and version, unit length."""
    digest = hashlib.shake_128(text.encode()).digest((dim + 7) // 8)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))[:dim]
    return ((2.0 * bits - 1.0) / np.sqrt(dim)).astype(np.float32)


@functools.cache
def _context_projection() -> Float[np.ndarray, "184 48"]:
    """A fixed random projection that keeps the length of a word vector on average."""
    rows = [_signs(f"context {i}", CONTEXT) for i in range(MEANING + SPELLING)]
    return np.stack(rows)


@functools.cache
def _position_code(count: int) -> Float[np.ndarray, "{count} 24"]:
    """Sinusoids with periods of 6 to 192 tokens, unit length."""
    periods = np.geomspace(6.0, 192.0, POSITION // 2)
    angle = 2 * np.pi * np.arange(count)[:, None] / periods
    code = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    return (code / np.sqrt(POSITION / 2)).astype(np.float32)


def stems(word: str) -> list[str]:
    """Returns the word, then what it may be an inflection of, most likely first."""
    found = [word]
    for suffix, endings in (
        ("ies", ("y", "ie")),
        ("es", ("", "e")),
        ("s", ("",)),
        ("ing", ("", "e")),
        ("ed", ("", "e")),
        ("er", ("", "e")),
        ("ly", ("", "e")),
        ("ish", ("", "e")),
    ):
        stem = word[: -len(suffix)]
        if word.endswith(suffix) and len(stem) >= 2:
            found += [stem + ending for ending in endings]
            if len(stem) >= 3 and stem[-1] == stem[-2]:  # jogging
                found.append(stem[:-1])
    return found


# eq=False: two encoders are the same if they are one object; arrays do not compare as fields do.
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WordsEncoder:
    """The default: one vector per word from a table that ships, its spelling, and where it stands.

    A token is 144 numbers of meaning, 40 of spelling, 48 of the words before and 24 of its place,
    scaled to unit mean square over the 256.
      Meaning: the input embeddings of all-MiniLM-L6-v2 (Apache-2.0) for 22 thousand whole words,
        centred, without the two leading principal directions (word frequency), reduced by PCA and
        stored in 8 bits. Inflections that the table lacks use their stem.
      Spelling: hashed character n-grams (3 to 5, and the word), so that words with near meanings
        ("red", "blue") stay apart and words the table lacks have a stable place of their own; those
        get a hashed meaning too.
      Context: a random projection of the words before, halving with each step, because attention
        over a bag of words cannot distinguish "red ball, blue box" from "blue ball, red box".
      Position: slow sinusoids.
    Punctuation and articles are skipped. The text ends with an end token, which is all that "" has.

    How it was chosen. On 70 word triples (does "crate" lie nearer to "box" than to "bird"?) hashed
    spelling alone gets 47 %, the whole MiniLM run over each word 84 %, its input embeddings 86 %,
    without their two leading directions 87 %, with the glosses of `build.py` 90 %; meaning and
    spelling together 86 %, the price of keeping basic colours apart (cosine of "red" and "blue"
    0.33 instead of 0.51). On naming the colour of the ball among two coloured things, by ridge
    regression on the outputs of random attention queries (chance 50 %): bare words 50 %, with
    position 98 %, with context 100 %, with both 100 %.

    Attributes:
      table: row of each word.
      vectors: 8-bit meaning of each row.
      steps: scale of each column of `vectors`.
      length: tokens per text, the end token included.
      name: of the encoder in shards and configs.
      dim: numbers per token.
    """

    table: Mapping[str, int]
    vectors: Int8[np.ndarray, "words 144"]
    steps: Float[np.ndarray, "144"]
    length: int
    name: str = "words"
    dim: int = MEANING + SPELLING + CONTEXT + POSITION

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n length dim"]:
        """Embeds texts; longer ones are cut, and zeros follow a text's last token."""
        out = np.zeros((len(texts), self.length, self.dim), np.float32)
        for i, text in enumerate(texts):
            tokens = _tokens(self, text)
            out[i, : len(tokens)] = tokens
        return out

    def count(self, text: str) -> int:
        """Counts the tokens of a text, the end token included; those past `length` are cut."""
        return len(_words(text)) + 1


# Prompts of modalities come again and again.
@functools.lru_cache(maxsize=512)
def _tokens(encoder: WordsEncoder, text: str) -> Float[np.ndarray, "tokens dim"]:
    words = _words(text)[: encoder.length - 1]
    meaning, spelling = zip(*(_embed_word(encoder, w) for w in [*words, END]), strict=True)
    meaning, spelling = np.stack(meaning), np.stack(spelling)
    vectors = np.concatenate([meaning, spelling], axis=1) @ _context_projection()
    context = np.zeros((len(vectors), CONTEXT), np.float32)
    for i in range(1, len(vectors)):
        context[i] = vectors[i - 1] + DECAY * context[i - 1]
    parts = {
        "meaning": meaning,
        "spelling": spelling,
        "context": context / np.sqrt(2.0),  # a word vector has squared length 2
        "position": _position_code(len(vectors)),
    }
    scale = np.sqrt(encoder.dim / sum(w**2 for w in WEIGHTS.values()))
    return np.concatenate([WEIGHTS[k] * scale * v for k, v in parts.items()], axis=1)


def _words(text: str) -> list[str]:
    return [word for word in split_words(text) if word not in SKIPPED]


@functools.lru_cache(maxsize=65536)
def _embed_word(encoder: WordsEncoder, word: str) -> tuple[np.ndarray, np.ndarray]:
    marked = f"<{word}>"
    grams = {marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)} | {marked}
    # Sorted: a set's order changes from run to run, and with it the rounding of the sum.
    spelling = np.sum([_signs(g, SPELLING) for g in sorted(grams)], axis=0)
    for stem in stems(word):
        if stem in encoder.table:
            meaning = encoder.vectors[encoder.table[stem]] * encoder.steps
            break
    else:
        meaning = np.sum([_signs(f"meaning {g}", MEANING) for g in sorted(grams)], axis=0)
    return tuple((v / np.linalg.norm(v)).astype(np.float32) for v in (meaning, spelling))
