"""Large frames through the autoencoder by overlapping tiles, whose overlaps are blended.

Each tile is streamed through time, so the device holds four frames of one tile whatever the size
and length of the video. Tiles do not see each other: across a seam the result differs from that of
the whole frame, and the overlap hides it. Tiles lie and blend as in diffusers' AutoencoderKLWan,
without those that an earlier tile already covers.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.vae.wan_vae import WanVAE

Span = tuple[int, int]


def encode_tiled(
    vae: WanVAE, video: Float[np.ndarray, "b t h w 3"], *, tile: int = 256, overlap: int = 64
) -> Float[np.ndarray, "b s p q z"]:
    """Encodes as `WanVAE.encode` does, by tiles.

    Args:
      vae: the autoencoder.
      video: float32 in [-1, 1]; sizes as `encode` takes them.
      tile: side of a tile in pixels, a multiple of the spatial stride.
      overlap: pixels that neighbouring tiles share; a multiple of the stride, at most half a tile.

    Returns:
      Normalised latents on the host.

    Raises:
      UserError: a size, tile or overlap that does not fit.
    """
    vae.config.latent_shape(*video.shape[1:4])
    cells = vae.config.spatial_stride
    side, shared = _in_cells(vae, tile, overlap)
    rows, columns = (_spans(size // cells, side, shared) for size in video.shape[2:4])

    def run(row: Span, column: Span) -> Float[np.ndarray, "b s p q z"]:
        (top, bottom), (left, right) = row, column
        part = video[:, :, top * cells : bottom * cells, left * cells : right * cells]
        return np.array(vae.encode_streamed(part))

    return _stitch(run, rows, columns, _ramp(shared, 1))


def decode_tiled(
    vae: WanVAE, latents: Float[np.ndarray, "b t h w z"], *, tile: int = 256, overlap: int = 64
) -> Float[np.ndarray, "b s p q 3"]:
    """Decodes as `WanVAE.decode` does, by tiles.

    Args:
      vae: the autoencoder.
      latents: float32, as `encode_tiled` gives them.
      tile, overlap: in pixels, as `encode_tiled` takes them.

    Returns:
      Video in [-1, 1] on the host.

    Raises:
      UserError: a number of channels, tile or overlap that does not fit.
    """
    side, shared = _in_cells(vae, tile, overlap)
    rows, columns = (_spans(size, side, shared) for size in latents.shape[2:4])

    def run(row: Span, column: Span) -> Float[np.ndarray, "b s p q 3"]:
        part = latents[:, :, slice(*row), slice(*column)]
        chunks = [np.asarray(chunk) for chunk in vae.decode_chunks(part, clip=False)]
        return np.concatenate(chunks, axis=1)

    ramp = _ramp(shared * vae.config.spatial_stride, vae.config.patch_size)
    return np.clip(_stitch(run, rows, columns, ramp), -1.0, 1.0)


def _in_cells(vae: WanVAE, tile: int, overlap: int) -> tuple[int, int]:
    stride = vae.config.spatial_stride
    if tile < 1 or overlap < 1 or tile % stride or overlap % stride or 2 * overlap > tile:
        raise UserError(
            f"tile={tile}, overlap={overlap}: make both multiples of {stride} pixels, and the "
            "overlap at most half a tile."
        )
    return tile // stride, overlap // stride


def _spans(size: int, side: int, shared: int) -> list[Span]:
    """Where tiles start and end; the last one may be shorter, never as short as the overlap."""
    starts = [0]
    while starts[-1] + side < size:
        starts.append(starts[-1] + side - shared)
    return [(start, min(start + side, size)) for start in starts]


def _ramp(overlap: int, patch: int) -> Float[np.ndarray, " overlap"]:
    """Weight of the later tile over an overlap, from 0; the pixels of a patch have one weight."""
    steps = overlap // patch
    return np.repeat(np.arange(steps, dtype=np.float32) / steps, patch)


def _stitch(
    run: Callable[[Span, Span], Float[np.ndarray, "b t h w c"]],
    rows: list[Span],
    columns: list[Span],
    ramp: Float[np.ndarray, " overlap"],
) -> Float[np.ndarray, "b t h w c"]:
    """Runs tile after tile; each is blended with the one above, then with the one at its left."""
    overlap = len(ramp)
    down, right = ramp[:, None, None], ramp[:, None]
    bottoms: list[np.ndarray] = []
    stitched = []
    for row in rows:
        pieces, below = [], []
        edge: np.ndarray | None = None
        for j, column in enumerate(columns):
            tile = run(row, column)
            if bottoms:
                head = tile[:, :, :overlap]
                head[...] = bottoms[j] * (1 - down) + head * down
            if edge is not None:
                side = tile[:, :, :, :overlap]
                side[...] = edge * (1 - right) + side * right
            below.append(tile[:, :, -overlap:])
            edge = tile[:, :, :, -overlap:]
            height = tile.shape[2] - (0 if row is rows[-1] else overlap)
            width = tile.shape[3] - (0 if column is columns[-1] else overlap)
            pieces.append(tile[:, :, :height, :width])
        bottoms = below
        stitched.append(np.concatenate(pieces, axis=3))
    return np.concatenate(stitched, axis=2)
