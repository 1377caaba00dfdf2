"""Makes `data/wan_vae_reference.npz`: diffusers' Wan autoencoder, small and with random weights.

Needs torch and diffusers (seen with torch 2.13.0, diffusers 0.42.1), which the project itself does
not. Command: python tests/models/make_wan_vae_reference.py
"""

import json
import pathlib

import numpy as np
import torch
from diffusers import AutoencoderKLWan

CONFIG = dict(
    base_dim=4,
    z_dim=4,
    dim_mult=[1, 2, 4, 4],
    num_res_blocks=1,
    latents_mean=[0.1, -0.2, 0.3, 0.0],
    latents_std=[0.5, 2.0, 1.5, 0.7],
)
FRAMES = (1, 5, 17)
HEIGHT, WIDTH = 16, 24


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    vae = AutoencoderKLWan(**CONFIG).eval()
    for name, tensor in vae.named_parameters():
        # Norm scales start at one and would hide a wrong axis or a missing one.
        spread = 0.2 if name.endswith("gamma") else 0.0
        tensor.add_(spread * torch.randn(tensor.shape, generator=generator))
    arrays = {f"weight/{k}": v.numpy() for k, v in vae.state_dict().items()}
    arrays["config"] = np.array(json.dumps(CONFIG))
    for frames in FRAMES:
        video = torch.rand(1, 3, frames, HEIGHT, WIDTH, generator=generator) * 2 - 1
        posterior = vae.encode(video).latent_dist
        latents = torch.randn(posterior.mean.shape, generator=generator)
        arrays[f"{frames}/video"] = video.numpy()
        arrays[f"{frames}/mean"] = posterior.mean.numpy()
        arrays[f"{frames}/logvar"] = posterior.logvar.numpy()
        arrays[f"{frames}/z"] = latents.numpy()
        arrays[f"{frames}/decoded"] = vae.decode(latents).sample.numpy()
    path = pathlib.Path(__file__).parent / "data" / "wan_vae_reference.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {len(arrays)} arrays")


if __name__ == "__main__":
    main()
