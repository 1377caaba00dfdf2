"""Light and colour: from surfaces to RGB."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unityvideo_jax.worlds import looks, stage, textures
from unityvideo_jax.worlds.geometry import (
    NUM_LIMBS,
    SKY,
    WALL_0,
    WALL_1,
    Solids,
    interval,
    light,
    nearest,
)
from unityvideo_jax.worlds.scene import Surroundings
from unityvideo_jax.worlds.surface import (
    Surface,
    local_normal,
    surface,
    take,
    to_local,
    turn_local,
    turn_normal,
)
from unityvideo_jax.worlds.vector import Vec

_GLASS_INDEX = 1.45
_LIFT = 2e-3  # metres that a ray starts off its surface


def _over_rays(values: Float[Array, "b 3"]) -> Vec:
    return Vec(*[values[:, i][:, None, None] for i in range(3)])


def _solid_colour(skin: stage.Skin, hit: Surface, blur: Array) -> Vec:
    """Albedo of limbs and objects, with clothes, faces and painted objects."""
    row = jnp.concatenate(
        [skin.colour, skin.accent, skin.texture[..., None].astype(jnp.float32)], axis=-1
    )
    row = take(row[:, None], hit.solid)
    base, accent = Vec(*[row[..., i] for i in range(3)]), Vec(*[row[..., 3 + i] for i in range(3)])
    texture = row[..., 6].astype(jnp.int32)
    p = hit.local
    limb = hit.on_limb
    # A limb is some 15 cm across, an object 40; `fine` is a pixel in local units.
    fine = blur / jnp.where(limb, 0.1, 0.25)
    around = jnp.arctan2(p.y, p.x) * (4.0 / jnp.pi)
    stripes = textures.square_wave(3.2 * p.z, 3.2 * fine)
    checks = textures.square_wave(around, fine) * textures.square_wave(2.4 * p.z + 0.5, 2.4 * fine)
    thing_stripes = textures.square_wave(2.0 * p.z + 0.5, 2.0 * fine)
    thing_checks = thing_stripes * textures.square_wave(around, fine)
    stripes = jnp.where(limb, stripes, thing_stripes)
    checks = jnp.where(limb, checks, thing_checks)
    spots = textures.noise(2.5 * p.x + 3 * p.y, 2.5 * p.z + 1.7 * p.y)
    spots = jnp.clip(4.0 * spots - 0.4, -1.0, 1.0)
    share = jnp.select(
        [texture == stage.STRIPED, texture == stage.CHECKED, texture == stage.SPOTTED],
        [0.5 - 0.5 * stripes, 0.5 - 0.5 * checks, 0.5 + 0.5 * spots],
        0.0,
    )
    accent = textures.mix(accent, Vec(0.7, 0.68, 0.62), (texture == stage.SPOTTED) * 1.0)
    colour = textures.mix(base, accent, 0.85 * share)

    # A face in local units of the head: x ahead, y left, z up.
    soft = jnp.maximum(0.03, fine * 0.7)

    def blob(y: Array, z: Array, radius: float) -> Array:
        return jnp.clip(0.5 + (radius - jnp.sqrt(y * y + z * z)) / (2 * soft), 0.0, 1.0)

    side = jnp.abs(p.y)
    face = (texture == stage.FACE) & (p.x > 0)
    whites = blob(side - 0.4, 1.5 * (p.z - 0.16), 0.19)
    pupils = blob(side - 0.4, p.z - 0.16, 0.11)
    brow = blob(0.4 * (side - 0.42), 1.6 * (p.z - 0.42), 0.1)
    mouth = blob(0.45 * side, 1.4 * (p.z + 0.5), 0.12)
    on = jnp.where(face, 1.0, 0.0)
    colour = textures.mix(colour, accent, 0.8 * on * brow)
    colour = textures.mix(colour, Vec(0.75, 0.74, 0.72), on * whites)
    colour = textures.mix(colour, Vec(0.02, 0.015, 0.012), on * pupils)
    colour = textures.mix(colour, Vec(0.36, 0.07, 0.06), 0.8 * on * mouth)
    eye = blob(p.x - 0.55, p.z - 0.25, 0.22) * jnp.where(texture == stage.MUZZLE, 1.0, 0.0)
    return textures.mix(colour, Vec(0.01, 0.01, 0.01), eye)


def _albedo(around: Surroundings, skin: stage.Skin, hit: Surface, blur: Array) -> Vec:
    ground = around.ground_colours
    offset = around.ground_offset[:, :, None, None]
    share = textures.ground_share(
        around.ground[:, None, None], around.ground_scale[:, None, None],
        hit.point.x + offset[:, 0], hit.point.y + offset[:, 1], blur,
    )  # fmt: skip
    floor = textures.mix(_over_rays(ground[:, 0]), _over_rays(ground[:, 1]), share)
    second = hit.which == WALL_1
    along = jnp.where(second, hit.point.y, hit.point.x) + offset[:, 0]
    shade = textures.wall_shade(around.wall_pattern[:, None, None], along, hit.point.z, blur)
    walls = [_over_rays(around.wall_colours[:, i]) for i in range(2)]
    wall = Vec(*[jnp.where(second, b, a) for a, b in zip(*walls, strict=True)]) * shade
    solid = _solid_colour(skin, hit, blur)
    is_wall = second | (hit.which == WALL_0)
    return Vec(
        *[
            jnp.where(hit.on_solid, s, jnp.where(is_wall, w, f))
            for s, w, f in zip(solid, wall, floor, strict=True)
        ]
    )


def _lit(
    around: Surroundings, albedo: Vec, hit: Surface, view: Vec, gloss: Any, sunlight: Any, sky: Any
) -> Vec:
    """Diffuse and specular radiance under the sun and a sky that is brighter above."""
    sun = _over_rays(around.sun_direction)
    sun_colour = _over_rays(around.sun_colour)
    indoors = (around.place == looks.ROOM)[:, None, None]
    low, high = _over_rays(around.sky_low), _over_rays(around.sky_high)
    above = textures.mix(low, high, 0.35)
    above = textures.mix(above, Vec(0.85, 0.82, 0.78), jnp.where(indoors, 0.8, 0.25))
    bounce = _over_rays(around.ground_colours.mean(axis=1))
    up = 0.5 + 0.5 * hit.normal.z
    ambient = textures.mix(bounce * 0.7, above, up) * (0.42 * sky)
    facing = jnp.maximum(hit.normal.dot(sun), 0.0)
    strength = jnp.where(indoors, 1.1, 1.75)
    direct = sun_colour * (strength * facing * sunlight)
    # A faint light from the camera's side gives form to what lies in shadow.
    fill = 0.06 * jnp.maximum(-hit.normal.dot(view), 0.0)
    colour = Vec(*[a * (i + d + fill) for a, i, d in zip(albedo, ambient, direct, strict=True)])
    middle = (sun - view).unit()
    shine = jnp.maximum(hit.normal.dot(middle), 0.0)
    for _ in range(6):
        shine = shine * shine  # to the 64th power
    return colour + sun_colour * (gloss * shine * sunlight)


def _sky(around: Surroundings, direction: Vec) -> Vec:
    return textures.sky(
        direction.unit(), _over_rays(around.sky_low), _over_rays(around.sky_high),
        around.clouds[:, None, None], _over_rays(around.sun_direction),
        _over_rays(around.sun_colour),
    )  # fmt: skip


def _refract(direction: Vec, normal: Vec, ratio: float) -> Vec:
    """Snell's law for unit vectors, the normal against the ray; total reflection mirrors."""
    cosine = -direction.dot(normal)
    k = 1.0 - ratio * ratio * (1.0 - cosine * cosine)
    bent = direction * ratio + normal * (ratio * cosine - jnp.sqrt(jnp.maximum(k, 0.0)))
    mirrored = direction + normal * (2.0 * cosine)
    return Vec(*[jnp.where(k > 0.0, b, m) for b, m in zip(bent, mirrored, strict=True)])


def _through(solids: Solids, hit: Surface, pose: Array, direction: Vec) -> tuple[Vec, Vec]:
    """Where and in which direction a ray leaves the object that it hit, refracted twice."""
    inward = _refract(direction, hit.normal, 1.0 / _GLASS_INDEX)
    thing = jnp.clip(hit.which - NUM_LIMBS, 0, solids.shape.shape[1] - 1)
    shape = take(solids.shape[:, None, :, None], thing)[..., 0]
    start = hit.point - hit.normal * _LIFT
    _, leave = interval(to_local(pose, start), turn_local(pose, inward), shape)
    point = start + inward * jnp.maximum(leave, 0.0)
    local = to_local(pose, point)
    zero = jnp.zeros_like(leave)
    normal = turn_normal(pose, local_normal(local, zero, shape, jnp.zeros_like(shape, bool)))
    out = _refract(inward, -normal, _GLASS_INDEX)
    return point + normal * _LIFT, out


def radiance(
    solids: Solids, casters: Solids, skin: stage.Skin, around: Surroundings, origin: Vec,
    direction: Vec, spread: Any,
) -> tuple[Float[Array, "b t r 3"], Float[Array, "b t r"], Int[Array, "b t r"]]:  # fmt: skip
    """Traces primary rays and colours them.

    One more ray follows the reflection of a shiny object or the way through a glass one; it is
    traced by the same loop body, which so compiles once, and is left out if no clip needs it.

    Args:
      solids, skin, around: for the rays' frames.
      casters: solids that throw shadows, as a rule `solids`.
      origin, direction: of the primary rays; their t is what `distance` measures.
      spread: angle between neighbouring rays.

    Returns:
      RGB in [0, 1], distance and `which` of the first surface, as `nearest` gives them.
    """
    shape = jnp.broadcast_shapes(origin.x.shape, direction.x.shape)
    sun = _over_rays(around.sun_direction)

    def bounce(number: Array, state: tuple) -> tuple:
        origin, direction, weight, colour, way, first, first_which = state
        distance, which = nearest(solids, origin, direction)
        hit, pose = surface(solids, which, distance, origin, direction)
        view = direction.unit()
        length = jnp.sqrt(direction.dot(direction))
        far = way + jnp.where(which == SKY, 0.0, distance * length)
        # A reflecting surface is curved as a rule, which spreads what is seen in it.
        wide = spread * jnp.where(number == 0, 1.0, 3.0)
        blur = wide * far / jnp.clip(-hit.normal.dot(view), 0.15, 1.0)
        lifted = hit.point + hit.normal * _LIFT
        sunlight, sky = light(casters, lifted, hit.normal, sun, around.sun_radius[:, None, None])
        material = take(skin.material[:, None, :, None], hit.solid)[..., 0]
        material = jnp.where(hit.on_solid & (number == 0), material, looks.MATTE)
        is_thing = hit.on_solid & ~hit.on_limb
        gloss = jnp.where(is_thing, 0.12, 0.03) + 0.9 * (material != looks.MATTE)
        albedo = _albedo(around, skin, hit, blur)
        seen = _lit(around, albedo, hit, view, gloss, sunlight, sky)

        cosine = jnp.clip(-view.dot(hit.normal), 0.0, 1.0)
        mirrored = view + hit.normal * (2.0 * cosine)
        # In the sky's direction, or in that of its mirror image in glass: one sky serves both.
        glass, glossy = material == looks.GLASS, material == looks.GLOSSY
        sky_colour = _sky(around, _where(glass, mirrored, direction))
        haze = 1.0 - jnp.exp(-0.005 * far)
        seen = textures.mix(seen, _over_rays(around.sky_low), haze)
        seen = _where(hit.which == SKY, sky_colour, seen)
        # Schlick's approximation, with more mirror in a shiny coat than in glass.
        edge = (1.0 - cosine) ** 5
        share = jnp.clip(jnp.where(glass, 0.04, 0.22) + 0.8 * edge, 0.0, 1.0)
        sunny = jnp.maximum(mirrored.dot(sun), 0.0) ** 200
        glint = sky_colour * share + _over_rays(around.sun_colour) * (1.5 * sunny)
        own = _where(glass, glint, seen * jnp.where(glossy, 1.0 - share, 1.0))
        tint = textures.mix(Vec(0.93, 0.96, 0.96), albedo, 0.12) * (1.0 - share)
        zero = jnp.zeros_like(share)
        onward = _where(
            glass, tint, _where(glossy, Vec(share, share, share), Vec(zero, zero, zero))
        )
        exit_point, through = _through(solids, hit, pose, view)
        return (
            _where(glass, exit_point, lifted),
            _where(glass, through, mirrored),
            Vec(*[w * o for w, o in zip(weight, onward, strict=True)]),
            Vec(*[c + w * o for c, w, o in zip(colour, weight, own, strict=True)]),
            far,
            jnp.where(number == 0, distance, first),
            jnp.where(number == 0, which, first_which),
        )

    zero = jnp.zeros(shape, jnp.float32)
    state = (
        Vec(*[jnp.broadcast_to(c, shape) for c in origin]),
        Vec(*[jnp.broadcast_to(c, shape) for c in direction]),
        Vec(zero + 1.0, zero + 1.0, zero + 1.0),
        Vec(zero, zero, zero),
        zero,
        zero,
        jnp.zeros(shape, jnp.int32),
    )
    bounces = jnp.where((skin.material != looks.MATTE).any(), 2, 1)
    state = jax.lax.fori_loop(0, bounces, bounce, state)
    return _display(state[3].stack()), state[5], state[6]


def _where(condition: Array, a: Vec, b: Vec) -> Vec:
    return Vec(*[jnp.where(condition, i, j) for i, j in zip(a, b, strict=True)])


def _display(linear: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Filmic shoulder (a rational fit of the ACES curve), then the power of sRGB."""
    x = jnp.maximum(linear, 1e-6) * 0.85
    x = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    return jnp.clip(x, 0.0, 1.0) ** (1.0 / 2.2)
