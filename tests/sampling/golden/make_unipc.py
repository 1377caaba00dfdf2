"""Writes unipc.npz: trajectories of diffusers' UniPCMultistepScheduler on an analytic velocity.

Made with torch==2.13.0 and diffusers==0.42.1 (CPU), which the package itself does not need:

    python tests/sampling/golden/make_unipc.py

Each case holds the scheduler's sigmas, the start, and the sample after every step.
"""

import pathlib

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler

CASES = {"shift5_50": (5.0, 50), "shift1_12": (1.0, 12), "shift3_2": (3.0, 2), "shift3_1": (3.0, 1)}


def velocity(x, sigma):
    """Smooth and nonlinear in both; the test writes the same formula in JAX."""
    return torch.tanh(x) * (1.5 - sigma) + torch.cos(3.0 * sigma) * x.flip(-1) - 0.3


def main():
    arrays = {}
    start = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 4)))
    for name, (shift, steps) in CASES.items():
        scheduler = UniPCMultistepScheduler(
            solver_order=2,
            solver_type="bh2",
            prediction_type="flow_prediction",
            predict_x0=True,
            use_flow_sigmas=True,
            flow_shift=shift,
            num_train_timesteps=1000,
        )
        scheduler.set_timesteps(steps)
        sample, trajectory = start.clone(), []
        for i, timestep in enumerate(scheduler.timesteps):
            v = velocity(sample, scheduler.sigmas[i].double())
            sample = scheduler.step(v, timestep, sample).prev_sample
            trajectory.append(sample.numpy())
        arrays[f"{name}/sigmas"] = scheduler.sigmas.numpy()
        arrays[f"{name}/trajectory"] = np.stack(trajectory)
    path = pathlib.Path(__file__).with_name("unipc.npz")
    np.savez(path, start=start.numpy(), **arrays)
    print(path, {k: v.shape for k, v in arrays.items()})


if __name__ == "__main__":
    main()
