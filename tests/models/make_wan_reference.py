"""Writes wan_reference.npz: a small Wan transformer of diffusers with random weights, and outputs.

Run where torch==2.13.0 (CPU) and diffusers==0.42.1 are installed:
  python tests/models/make_wan_reference.py
"""

import pathlib

import numpy as np
import torch
from diffusers import WanTransformer3DModel

TARGET = pathlib.Path(__file__).with_name("wan_reference.npz")


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=20,
        in_channels=4,
        out_channels=4,
        text_dim=12,
        freq_dim=256,
        ffn_dim=72,
        num_layers=2,
    ).eval()
    # Norm scales start at one and biases at zero: random values make a mistake in them visible.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            centre = 1.0 if name.endswith(("norm_q.weight", "norm_k.weight", "norm2.weight")) else 0
            scale = 0.3 if weight.ndim == 1 else 1.0 / weight[0].numel() ** 0.5
            weight.copy_(centre + scale * noise)

    # The second width is the first twice: two streams side by side.
    latents = torch.randn((2, 4, 3, 4, 12), generator=generator)
    timestep = torch.tensor([0.137, 0.861])
    context = torch.randn((2, 7, 12), generator=generator)
    context[:, 5:] = 0.0

    def run(x: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return model(x, 1000.0 * timestep, context, return_dict=False)[0].numpy()

    arrays = {f"weights/{name}": value.numpy() for name, value in model.state_dict().items()}
    arrays |= {
        "latents": latents.numpy(),
        "timestep": timestep.numpy(),
        "context": context.numpy(),
        "velocity_half": run(latents[..., :6]),
        "velocity_whole": run(latents),
    }
    np.savez_compressed(TARGET, **arrays)
    print(TARGET, TARGET.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
