"""The MiniLM sentence encoder (BERT, 6 layers) on the host in numpy, from a package's own weights.

Only the embeddings of captions are wanted, once per clip and ahead of training, so this needs
neither torch nor an accelerator: weights and vocabulary are read from the installed package.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import scipy
from jaxtyping import Float, Int

MAX_WORD = 100  # BERT takes longer words for unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordPiece:
    """BERT's uncased tokenizer: lower-cased, split at punctuation, greedy longest pieces.

    Attributes:
      vocabulary: id of each piece.
    """

    vocabulary: Mapping[str, int]

    def __call__(self, text: str, length: int) -> list[int]:
        """Token ids with [CLS] and [SEP], at most `length` of them."""
        ids = [self.vocabulary[piece] for piece in self.pieces(text)[: length - 2]]
        return [self.vocabulary["[CLS]"], *ids, self.vocabulary["[SEP]"]]

    def pieces(self, text: str) -> list[str]:
        """All pieces of a text."""
        return [piece for word in split_words(text) for piece in self._pieces(word)]

    def _pieces(self, word: str) -> list[str]:
        pieces, start = [], 0
        while start < len(word) and len(word) <= MAX_WORD:
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.vocabulary:
                    pieces.append(piece)
                    start = end
                    break
            else:
                return ["[UNK]"]
        return pieces or ["[UNK]"]


_ASCII_WORDS = re.compile("[a-z0-9]+|[^ a-z0-9]")


def _is_punctuation(character: str) -> bool:
    # BERT counts every ASCII symbol as punctuation, also those that Unicode calls symbols.
    ascii_symbol = character.isascii() and character.isprintable() and not character.isalnum()
    return (ascii_symbol and character != " ") or unicodedata.category(character).startswith("P")


def split_words(text: str) -> list[str]:
    """Lower-case words without accents; each punctuation mark or CJK character is a word."""
    if text.isascii() and text.isprintable():  # the same, much faster
        return _ASCII_WORDS.findall(text.lower())
    words: list[str] = []
    open_word = False
    for character in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(character)
        if character.isspace():
            open_word = False
        elif category in ("Mn", "Cc", "Cf", "Co") or character == "\ufffd":
            continue
        elif _is_punctuation(character) or 0x3400 <= ord(character) <= 0x9FFF:
            words.append(character)
            open_word = False
        elif open_word:
            words[-1] += character
        else:
            words.append(character)
            open_word = True
    return words


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MiniLM:
    """Per-token embeddings of all-MiniLM-L6-v2: the last hidden states, [CLS] to [SEP].

    Attributes:
      weights: the tensors of the checkpoint by name.
      tokenizer: text to token ids.
      heads: attention heads.
      layers: transformer layers.
      length: context length; longer texts are cut, keeping [SEP].
      name: the name that shards record.
    """

    weights: Mapping[str, Float[np.ndarray, "..."]]
    tokenizer: WordPiece
    heads: int
    layers: int
    length: int
    name: str = "minilm"

    @property
    def dim(self) -> int:
        """Numbers per token."""
        return self.weights["embeddings.word_embeddings.weight"].shape[1]

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n length dim"]:
        """Embeds texts; zeros after the last token. "" gives those of [CLS] [SEP] alone."""
        out = np.zeros((len(texts), self.length, self.dim), np.float32)
        tokens = [self.tokenizer(text, self.length) for text in texts]
        # Texts of one length run together, so that no attention mask is needed.
        for count in sorted({len(t) for t in tokens}):
            rows = [i for i, t in enumerate(tokens) if len(t) == count]
            out[rows, :count] = self.hidden_states(np.asarray([tokens[i] for i in rows]))
        return out

    def count(self, text: str) -> int:
        """Counts the tokens of a text, [CLS] and [SEP] included."""
        return len(self.tokenizer.pieces(text)) + 2

    def hidden_states(self, ids: Int[np.ndarray, "n l"]) -> Float[np.ndarray, "n l dim"]:
        """Returns the last layer's output for equally long token sequences.

        Args:
          ids: indices in the vocabulary.
        """
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
        for layer in range(self.layers):
            prefix = f"encoder.layer.{layer}"
            q, k, v = (
                self._heads(self._linear(x, f"{prefix}.attention.self.{n}"))
                for n in ("query", "key", "value")
            )
            scores = scipy.special.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), axis=-1)
            mixed = (scores @ v).swapaxes(1, 2).reshape(x.shape)
            mixed = self._linear(mixed, f"{prefix}.attention.output.dense")
            x = self._norm(x + mixed, f"{prefix}.attention.output")
            hidden = self._linear(x, f"{prefix}.intermediate.dense")
            hidden = hidden * 0.5 * (1.0 + scipy.special.erf(hidden / np.sqrt(np.float32(2.0))))
            x = self._norm(x + self._linear(hidden, f"{prefix}.output.dense"), f"{prefix}.output")
        return x.astype(np.float32)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(1e-12))
        name = f"{name}.LayerNorm"
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _heads(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)
