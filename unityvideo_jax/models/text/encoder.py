"""The interface of text encoders: captions and modality prompts to token embeddings, on the host.

Every encoder gives [n, length, dim], zeros after a text's last token; nothing is masked in
cross-attention, as in Wan 2.1. "" gives the null embedding of classifier-free guidance.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

# Tokens per text: the longest caption of a procedural world has 99 of 'words'.
LENGTH = 104


@runtime_checkable
class TextEncoder(Protocol):
    """A text encoder.

    Attributes:
      name: what shards and configs record.
      dim: numbers per token.
      length: tokens per text, padding included.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def length(self) -> int: ...

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n length dim"]:
        """Embeds texts; longer ones are cut. Pure: the same text always gives the same numbers."""
        ...

    def count(self, text: str) -> int:
        """Counts a text's tokens, the marks at its ends included; those past `length` are cut."""
        ...


class CutTexts:
    """Warns in one line of texts that are longer than their encoder takes, the first time only.

    Args:
      encoder: that cuts them.
      limit: its length as the user sets it, such as "--text_length=104".
    """

    def __init__(self, encoder: TextEncoder, limit: str):
        self._encoder, self._limit, self._done = encoder, limit, False

    def __call__(self, texts: Iterable[str]) -> None:
        """Counts these texts and warns if one is cut; does nothing after a warning."""
        if self._done:
            return
        counts = [self._encoder.count(text) for text in texts]
        long = [count for count in counts if count > self._encoder.length]
        if long:
            self._done = True
            print(
                f"warning: {len(long)} of {len(counts)} texts are longer than {self._limit} tokens "
                f"and are cut there; the longest has {max(long)}",
                file=sys.stderr,
                flush=True,
            )
