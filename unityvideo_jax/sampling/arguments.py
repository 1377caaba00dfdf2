"""The types of a call's arguments, checked before anything is made of them."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import text_files
from unityvideo_jax.modalities import chosen_codec
from unityvideo_jax.models.dit import DiT
from unityvideo_jax.models.text.encoder import TextEncoder
from unityvideo_jax.models.vae.wan_vae import WanVAE
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.settings.sections import check_instance, check_keys, check_value


def check(
    *,
    prompts: Any,
    given: Any,
    wanted: Any,
    modality_prompts: Any,
    sampler: Any,
    **size: Any,
) -> None:
    """Raises UserError, which names the argument, for arguments of `Pipeline` of other types.

    Those that `Control` holds, and the contents of given streams, are checked where they are read.
    """
    check_texts("prompts", prompts)
    check_dict("given", given)
    check_instance(Collection, wanted, "wanted", "a tuple of names")
    check_texts("wanted", wanted)
    check_dict("modality_prompts", modality_prompts)
    for name, texts in modality_prompts.items():
        check_texts(f"modality_prompts[{name!r}]", texts)
    check_sampler(sampler)
    for name, pixels in size.items():
        if pixels is not None:
            check_value(int, pixels, name)


def check_parts(
    *,
    model: Any,
    vae: Any,
    text_encoder: Any,
    sampler: Any,
    config: Any,
    depth_codec: Any,
    real: Mapping[str, Any],
    whole: Mapping[str, Any],
) -> None:
    """Raises UserError, which names the argument, for parts of a `Pipeline` of other types.

    Args:
      model, vae, text_encoder, sampler, config, depth_codec: as `Pipeline` takes them.
      real, whole: its numbers by name.
    """
    check_instance(DiT, model, "model", "a DiT")
    check_instance(WanVAE, vae, "vae", "what load_vae returns")
    check_instance(TextEncoder, text_encoder, "text_encoder", "what load_text_encoder returns")
    check_sampler(sampler)
    if config is not None:
        check_instance(Mapping, config, "config", "a dict")
        check_keys(config, list(config), "config.", needed=("data",))
    check_value(str, depth_codec, "depth_codec")
    chosen_codec("depth", {"depth": depth_codec}, "depth_codec")
    for name, number in real.items():
        check_value(float, number, name)
    for name, number in whole.items():
        check_value(int, number, name)


def unread(
    sampler: SamplerConfig,
    *,
    given: Collection[str],
    wanted: Collection[str],
    counted: bool,
    texts: Iterable[str],
    drops_prompts: bool,
) -> dict[str, str]:
    """Why nothing in a call reads some of its settings, by their names.

    Args:
      sampler: the settings; one at its default is read or does no harm.
      given, wanted: streams of the call.
      counted: whether given streams have masks or weights.
      texts: prompts and negative prompts.
      drops_prompts: whether guidance compares with no modality prompts either.
    """
    found, has_text = {}, drops_prompts or any(texts)
    conditions = set(given) - set(wanted)
    guided = (has_text and sampler.text_guidance != 1.0) or (
        conditions and sampler.condition_guidance != 1.0
    )
    if not has_text:
        found["text_guidance"] = "there is no text to guide by; give a prompt, or leave it out"
    if not conditions:
        found["condition_guidance"] = "guides by given streams and there is none; leave it out"
    if not guided:
        off = "nothing is guided here; set text_guidance with a prompt, or condition_guidance"
        found["guidance_interval"] = off
        if not counted:
            found["guidance_rescale"] = off
    if not sampler.window:
        found["overlap"] = "is of windows; set window, or leave it out"
    plain = SamplerConfig(text_guidance=1.0)
    return {
        name: why for name, why in found.items() if getattr(sampler, name) != getattr(plain, name)
    }


def check_dict(name: str, value: Any) -> None:
    """Raises UserError unless an argument has something by name of stream."""
    check_instance(Mapping, value, name, "a dict by name of stream")


def check_sampler(sampler: Any) -> None:
    """Raises UserError unless an argument is settings, or None."""
    give = "a SamplerConfig, or its fields by name"
    check_instance(SamplerConfig | None, sampler, "sampler", give)


def check_texts(name: str, value: Any) -> None:
    """Raises UserError unless an argument is a text or several."""
    several = isinstance(value, Collection) and not isinstance(value, str | bytes)
    for text in value if several else [value]:
        if not isinstance(text, str):
            kind = type(text).__name__
            raise UserError(f"{name}: {kind} instead of text; give a text or a list of texts")
        text_files.check_text(text, name)
