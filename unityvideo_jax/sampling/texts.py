"""The text of each stream of a sample: RGB's is the caption, a modality's its prompt C_m."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities import RGB
from unityvideo_jax.models.text.encoder import TextEncoder


def texts_of(
    streams: Sequence[str],
    captions: Sequence[str],
    modality_prompts: Mapping[str, str | Sequence[str]],
) -> dict[str, list[str]]:
    """The texts of every stream, one per sample (in-context learner, UnityVideo sec. 3.3).

    Args:
      streams: names.
      captions: one per sample.
      modality_prompts: replaces a modality's own prompt, by one for all samples or one for each.

    Raises:
      UserError: another number of prompts than of captions.
    """
    texts = {}
    for name in streams:
        if name == RGB:
            texts[name] = list(captions)
            continue
        prompt = modality_prompts.get(name, modalities.get(name).prompt)
        texts[name] = per_caption(f"modality_prompts[{name!r}]", prompt, len(captions))
    return texts


def per_caption(name: str, text: str | Sequence[str], count: int) -> list[str]:
    """Returns one text for all captions, or one for each, as one for each.

    Raises:
      UserError: another number of texts than of captions; names the argument.
    """
    texts = [text] * count if isinstance(text, str) else list(text)
    if len(texts) != count:
        raise UserError(f"{name}: {len(texts)} prompts for {count} captions")
    return texts


def embed(
    texts: Mapping[str, Sequence[str]],
    encoder: TextEncoder,
    *,
    negative: Sequence[str],
    drops_prompts: bool,
) -> tuple[Float[np.ndarray, "b s l d"], Float[np.ndarray, "b s l d"]]:
    """Embeddings of the texts of every stream, and those that text guidance compares with.

    Guidance drops the texts that training drops: the caption, and the prompts only if training had
    prompt dropout. A negative prompt takes the caption's place. Each distinct text is embedded
    once.

    Args:
      texts: as `texts_of` gives them.
      encoder: of the model.
      negative: per sample, the text in place of the caption; "" is none.
      drops_prompts: whether training had prompt dropout.
    """
    rows = list(texts.values())
    null_rows = [
        list(negative) if name == RGB else [""] * len(row) if drops_prompts else row
        for name, row in texts.items()
    ]
    distinct = sorted({text for row in rows + null_rows for text in row})
    table = dict(zip(distinct, encoder(distinct), strict=True))

    def stack(rows: Sequence[Sequence[str]]) -> np.ndarray:
        return np.stack([[table[text] for text in sample] for sample in zip(*rows, strict=True)])

    return stack(rows), stack(null_rows)
