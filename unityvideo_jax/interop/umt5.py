"""UMT5 from a local folder: weights under Hugging Face's or the original Wan names, tokenizer.

The folder is a Wan download: Hugging Face's layout (`text_encoder/`, `tokenizer/`), the original
one (`models_t5_umt5-xxl-enc-bf16.pth`, tokenizer in `google/umt5-xxl/`), or everything in one
folder.
"""

import dataclasses
import functools
import html
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import hub, paths, strict_json
from unityvideo_jax.interop import identify
from unityvideo_jax.interop.tensors import TensorFiles, Wanted
from unityvideo_jax.models import build
from unityvideo_jax.models.text.umt5 import UMT5, UMT5Config
from unityvideo_jax.runtime import threads

# Advice for a UMT5 that is missing.
FIX = (
    "set --config.data.text_encoder=umt5:FOLDER (train) or --text_encoder=umt5:FOLDER (prepare, "
    "sample, evaluate), FOLDER being a download of Wan with its tokenizer"
)
EMBEDDING = ("shared.weight", "token_embedding.weight")
NORM = ("encoder.final_layer_norm.weight", "norm.weight")
# Ours, Hugging Face's after "encoder.block.N.layer.", the original one's after "blocks.N.".
BLOCK = (
    ("norm1.scale", "0.layer_norm.weight", "norm1.weight"),
    ("attention.q.kernel", "0.SelfAttention.q.weight", "attn.q.weight"),
    ("attention.k.kernel", "0.SelfAttention.k.weight", "attn.k.weight"),
    ("attention.v.kernel", "0.SelfAttention.v.weight", "attn.v.weight"),
    ("attention.o.kernel", "0.SelfAttention.o.weight", "attn.o.weight"),
    (
        "attention.position_bias",
        "0.SelfAttention.relative_attention_bias.weight",
        "pos_embedding.embedding.weight",
    ),
    ("norm2.scale", "1.layer_norm.weight", "norm2.weight"),
    ("gate.kernel", "1.DenseReluDense.wi_0.weight", "ffn.gate.0.weight"),
    ("up.kernel", "1.DenseReluDense.wi_1.weight", "ffn.fc1.weight"),
    ("down.kernel", "1.DenseReluDense.wo.weight", "ffn.fc2.weight"),
)
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
# Classes named by `tokenizer_config.json` of which `tokenizer.json` is the whole tokenizer.
TOKENIZERS = ("T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
# Texts at a time, and the lengths that they are padded to.
BATCH, SIZES = 8, (64, 128, 256)
# Files of a repository of the hub; in the original layout they lie beside the transformer's.
HUB_FILES = ("tokenizer/*", "text_encoder/*", "google/umt5-xxl/*", "models_t5*")
ORIGINAL_FILES = ("models_t5*.safetensors", "models_t5*.pth")
# Parts of a whole UMT5 that an encoder does not need, and a copy of the embedding.
IGNORED = ("decoder.", "lm_head.", "encoder.embed_tokens.", "spiece_model")
# Our field: Hugging Face's.
CONFIG_FIELDS = {
    "vocab_size": "vocab_size",
    "dim": "d_model",
    "ffn_dim": "d_ff",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "num_layers": "num_layers",
    "num_buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "eps": "layer_norm_epsilon",
}


def tensor_names(num_layers: int, original: bool) -> dict[str, str]:
    """Our parameter paths to the names in a checkpoint, Hugging Face's or the original Wan's."""
    column = int(original)
    names = {"embedding": EMBEDDING[column], "norm.scale": NORM[column]}
    prefix = "blocks.{}." if original else "encoder.block.{}.layer."
    for i in range(num_layers):
        for ours, *theirs in BLOCK:
            names[f"blocks.{i}.{ours}"] = prefix.format(i) + theirs[column]
    return names


def load_umt5(directory: str | os.PathLike, dtype: str | None = None) -> UMT5:
    """Reads the encoder.

    Args:
      directory: holds *.safetensors or one .pth file; or is such a file. Sizes are those of the
        config.json beside, if it is a UMT5's, else they are read off the weights.
      dtype: of the large weights; None keeps float32 where it is stored so, else "bfloat16"
        (float16 cannot hold T5's activations).

    Raises:
      UserError: files that are missing, truncated, or do not fit each other.
    """
    directory = pathlib.Path(directory)
    tensors = TensorFiles(directory)
    original = EMBEDDING[1] in tensors
    folder = directory if directory.is_dir() else directory.parent
    config = _read_config(folder / "config.json") or _measure(tensors, original)
    names = tensor_names(config.num_layers, original)
    if dtype is None:
        embedding = names["embedding"]
        stored = tensors.kind(embedding) if embedding in tensors else None
        dtype = "float32" if stored == "F32" else "bfloat16"
    graph, state = build.abstract(UMT5, config, dtype=dtype)
    flat = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    tensors.check(
        {names[ours]: _turned(ours, leaf.get_value().shape) for ours, (_, leaf) in flat.items()},
        identify.T5,
        IGNORED,
    )
    arrays = tensors.load(
        {
            path: Wanted(
                name=names[ours],
                dtype=leaf.get_value().dtype,
                turn=jnp.transpose if ours.endswith("kernel") else None,
            )
            for ours, (path, leaf) in flat.items()
        }
    )
    loaded = {path: leaf.replace(arrays[path]) for path, leaf in flat.values()}
    return nnx.merge(graph, nnx.from_flat_state(loaded))


def _turned(ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A linear layer's weight is stored [out, in]."""
    return shape[::-1] if ours.endswith("kernel") else shape


def _measure(tensors: TensorFiles, original: bool) -> UMT5Config:
    """Sizes as the weights have them, and UMT5-XXL's distance and epsilon, which they do not."""
    names = tensor_names(1, original)
    missing = [name for name in names.values() if name not in tensors]
    if missing:
        tensors.refuse_others(identify.T5)
        raise UserError(f"{tensors.path}: no UMT5, it lacks {missing[0]}; copy it again")
    shapes = {ours: tensors.shape(name) for ours, name in names.items()}
    vocab_size, dim = shapes["embedding"]
    num_buckets, num_heads = shapes["blocks.0.attention.position_bias"]
    last = names["blocks.0.norm2.scale"].replace("0", "{}", 1)
    return UMT5Config(
        vocab_size=vocab_size,
        dim=dim,
        ffn_dim=shapes["blocks.0.up.kernel"][0],
        num_heads=num_heads,
        head_dim=shapes["blocks.0.attention.q.kernel"][0] // num_heads,
        num_layers=next(n for n in itertools.count(1) if last.format(n) not in tensors),
        num_buckets=num_buckets,
    )


def _read_config(path: pathlib.Path) -> UMT5Config | None:
    """The configuration; None if there is none, or that of another model (the original Wan's)."""
    if not path.exists():
        return None
    try:
        values = strict_json.read_object(path)
        if "_class_name" in values:
            return None
        config = {
            ours: values[theirs] for ours, theirs in CONFIG_FIELDS.items() if theirs in values
        }
        activation = values.get("feed_forward_proj", "gated-gelu")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a UMT5 configuration ({error}); copy it again.") from error
    if activation != "gated-gelu":
        raise UserError(f"{path}: feed_forward_proj={activation!r}; UMT5 has 'gated-gelu'.")
    return UMT5Config(**config)


def clean(text: str) -> str:
    """Cleans a text as Wan does: broken Unicode, HTML entities (twice), white space.

    Raises:
      UserError: ftfy is not installed; names the extra.
    """
    try:
        import ftfy
    except ImportError as error:
        raise _missing_extra() from error
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class UMT5TextEncoder:
    """UMT5 as a `models.text.TextEncoder`: zeros after a text's last token.

    Texts run in batches of `BATCH` of about one length, filled up with empty ones: few sizes are
    compiled, short texts are not padded to the full length, and a text's numbers do not depend on
    the texts beside it.

    Attributes:
      model: the encoder.
      tokenizer: of the library tokenizers.
      length: tokens per text; longer ones are cut, keeping the end token.
      name: what shards record.
    """

    model: UMT5
    tokenizer: Any
    length: int
    name: str = "umt5"

    @property
    def dim(self) -> int:
        """Numbers per token."""
        return self.model.config.dim

    @functools.cached_property
    def embed(self) -> Callable[[Array, Array], Array]:
        """(ids i32[B,n], mask bool[B,n]) -> f32[B,n,dim] on the device, compiled once per shape."""
        graph, state = nnx.split(self.model)
        run = jax.jit(lambda state, ids, mask: nnx.merge(graph, state)(ids, mask))
        return functools.partial(run, state)

    def padded_length(self, count: int) -> int:
        """The length that a text of so many tokens is padded to."""
        return min(*(size for size in (*SIZES, self.length) if size >= count), self.length)

    def count(self, text: str) -> int:
        """Counts the tokens of a text, the end token included."""
        return len(self.tokenizer.encode(clean(text)))

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, at most `length` with the end token."""
        found = self.tokenizer.encode(clean(text), add_special_tokens=False)
        found.truncate(self.length - self.tokenizer.num_special_tokens_to_add(False))
        return self.tokenizer.post_process(found).ids

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n length dim"]:
        """Embeds texts, cleaned as Wan cleans them; "" gives the end token's embedding alone."""
        tokens = [self.tokens(text) for text in texts]
        by_size: dict[int, list[int]] = {}
        for number, ids in enumerate(tokens):
            by_size.setdefault(self.padded_length(len(ids)), []).append(number)
        out = np.zeros((len(texts), self.length, self.dim), np.float32)
        for size, numbers in by_size.items():
            for first in range(0, len(numbers), BATCH):
                chosen = numbers[first : first + BATCH]
                ids, mask = np.zeros((BATCH, size), np.int32), np.zeros((BATCH, size), bool)
                for row, number in enumerate(chosen):
                    count = len(tokens[number])
                    ids[row, :count], mask[row, :count] = tokens[number], True
                embedded = np.asarray(self.embed(jnp.asarray(ids), jnp.asarray(mask)))
                for row, number in zip(embedded, chosen, strict=False):
                    count = len(tokens[number])
                    out[number, :count] = row[:count]
        return out


def load_text_encoder(directory: str | os.PathLike, length: int = 512) -> UMT5TextEncoder:
    """Loads the encoder and its tokenizer from a folder of Wan.

    Args:
      directory: see the top of this module.
      length: tokens per text; Wan pads to 512.

    Raises:
      UserError: the folder or a file of it is missing or faulty, or the extra `interop` is.
    """
    tokens, weights = find_umt5(directory)
    loaded = threads.call_all(
        tokenizer=lambda: load_tokenizer(tokens), model=lambda: load_umt5(weights)
    )
    tokenizer, model = loaded["tokenizer"], loaded["model"]
    if (size := tokenizer.get_vocab_size()) > model.config.vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has {size} tokens, the weights' embedding only "
            f"{model.config.vocab_size}; put the two of one UMT5 together"
        )
    return UMT5TextEncoder(model=model, tokenizer=tokenizer, length=length)


def find_umt5(directory: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path]:
    """Finds the tokenizer's folder, and the folder or file of the weights, of a folder of Wan.

    Raises:
      UserError: one of them is missing.
    """
    directory = hub.local(paths.expand(os.fspath(directory)), HUB_FILES)
    if not directory.is_dir():
        raise UserError(f"text encoder 'umt5:{directory}': no such folder; {FIX}")
    tokens = _first_folder(directory, ("tokenizer", "google/umt5-xxl", "."), TOKENIZER_FILES)
    original = [file for pattern in ORIGINAL_FILES for file in sorted(directory.glob(pattern))]
    if original:
        return tokens, original[0]
    return tokens, _first_folder(directory, ("text_encoder", "."), ("*.safetensors", "*.pth"))


def load_tokenizer(directory: pathlib.Path) -> Any:
    """Loads the `tokenizers.Tokenizer` of a local folder; nothing is downloaded.

    UMT5's own is read by that library alone: transformers, which brings all others, imports PyTorch
    where it is installed, for seconds in which no other thread of Python runs.

    Raises:
      UserError: a library is not installed, or cannot read the folder.
    """
    try:
        found = _own_tokenizer(directory)
        if found is None:
            import transformers

            found = transformers.AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            ).backend_tokenizer
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise _missing_extra() from error
    except Exception as error:  # the class that tokenizers raises
        raise UserError(f"{directory}: holds no tokenizer that can be read: {error}") from error
    # Neither is a text's own.
    found.no_truncation()
    found.no_padding()
    return found


def _own_tokenizer(directory: pathlib.Path) -> Any:
    """The tokenizer that `tokenizer.json` holds; None if transformers' class adds to it."""
    config, file = directory / "tokenizer_config.json", directory / TOKENIZER_FILES[0]
    if not config.is_file() or not file.is_file():
        return None
    if strict_json.read_object(config).get("tokenizer_class") not in TOKENIZERS:
        return None
    import tokenizers

    found = tokenizers.Tokenizer.from_file(os.fspath(file))
    # Old files lack the end token.
    return found if found.num_special_tokens_to_add(False) else None


def _first_folder(
    directory: pathlib.Path, folders: Sequence[str], patterns: Sequence[str]
) -> pathlib.Path:
    for folder in folders:
        if any(any((directory / folder).glob(pattern)) for pattern in patterns):
            return directory / folder
    places = ", ".join(str(directory / folder) for folder in folders)
    raise UserError(
        f"text encoder 'umt5:{directory}': no {' or '.join(patterns)} in any of {places}; {FIX}"
    )


def _missing_extra() -> UserError:
    return UserError(
        "text encoder 'umt5' needs tokenizers, transformers and ftfy; "
        "pip install 'unityvideo_jax[interop]', or use text_encoder='words'"
    )
