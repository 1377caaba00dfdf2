"""The model card of exported weights: the README.md that the Hugging Face hub shows."""

import math
import pathlib
from collections.abc import Mapping

import unityvideo_jax
from unityvideo_jax.files import escape
from unityvideo_jax.files.paths import write_bytes
from unityvideo_jax.interop import wan_keys
from unityvideo_jax.models.config import DiTConfig

CARD = "README.md"
# By layout: the library whose names these are, and how it reads them.
USE = {
    "diffusers": (
        "diffusers",
        "from diffusers import WanTransformer3DModel\n\n"
        'transformer = WanTransformer3DModel.from_pretrained("{name}")',
    ),
}


def write_card(
    folder: pathlib.Path,
    config: DiTConfig,
    *,
    layout: str,
    storage: str,
    made_from: str,
    left_over: Mapping[str, int],
) -> pathlib.Path:
    """Writes README.md beside exported weights, with the block of metadata that the hub reads.

    Args:
      folder: of the weights; its name is the model's.
      config: of the model.
      layout, storage: of the files.
      made_from: the run of the weights, in words.
      left_over: parameters by name that the layout cannot hold.
    """
    name = folder.name
    library, use = USE.get(layout, ("unityvideo_jax", ""))
    metadata = f"library_name: {library}\npipeline_tag: text-to-video\ntags:\n- unityvideo\n- video"
    count = sum(math.prod(entry.shape) for entry in wan_keys.entries(config, layout))
    rows = {
        "made from": escape.markdown(made_from),
        "written by": f"unityvideo_jax {unityvideo_jax.__version__}, `convert --to={layout}`",
        "parameters": f"{count:,}, in {storage}",
        "layers": f"{config.num_layers} of width {config.dim}, {config.num_heads} heads",
        "latent channels": str(config.in_channels),
        "text embedding": f"{config.text_len} tokens of {config.text_dim} numbers",
        "modalities of the run": ", ".join(config.modalities),
    }
    if left_over:
        rows["not in these files"] = f"{', '.join(map(escape.code, sorted(left_over)))}: " + (
            f"{sum(left_over.values()):,} parameters that the layout has no place for"
        )
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    example = f"\n```python\n{use.format(name=name)}\n```\n" if use else ""
    text = f"---\n{metadata}\n---\n\n# {escape.markdown(name)}\n\n| | |\n| --- | --- |\n{table}\n"
    write_bytes(folder / CARD, f"{text}{example}".encode())
    return folder / CARD
