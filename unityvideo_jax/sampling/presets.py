"""Sampler settings that go together, by the name of `sample --preset`."""

_PLAIN = dict(solver="euler", grid="linear", text_guidance=1.0, condition_guidance=1.0)
# four_steps: adapters distilled to four steps (lightx2v's for Wan) take Euler's steps at shift 5,
#   and no guidance, which is in them.
# one_pass: at t = 1 the velocity is the noise minus the mean of what the given streams allow, so
#   one step of Euler's estimates it, as regression does. For models that learned t = 1
#   (`objective.estimation_noise_share`). Other wanted streams are noise then, which says nothing,
#   so each is estimated without them: one call of all modalities is one batch of pairs.
PRESETS = {
    "four_steps": dict(steps=4, shift=5.0, **_PLAIN),
    "one_pass": dict(steps=1, shift=1.0, separate=True, **_PLAIN),
}
