import json

import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.sampling import requests


def test_the_three_modes():
    joint = requests.build(where="flags", mode="joint", modality=["depth"], prompt="a man")
    assert (joint.given, joint.wanted) == ({}, ("rgb", "depth"))
    control = requests.build(where="flags", mode="control", modality=["depth"], input="d.mp4")
    assert (control.given, control.wanted) == ({"depth": "d.mp4"}, ("rgb",))
    estimation = requests.build(
        where="flags", mode="estimation", modality=["depth", "flow"], input="v.mp4"
    )
    assert (estimation.given, estimation.wanted) == ({"rgb": "v.mp4"}, ("depth", "flow"))


def test_any_to_any():
    request = requests.build(
        where="flags", given={"depth": "d.npz", "skeleton": "s.mp4"}, wanted=["rgb", "flow"]
    )
    assert request.given == {"depth": "d.npz", "skeleton": "s.mp4"}
    assert request.wanted == ("rgb", "flow")


def test_modality_prompt_of_the_only_modality_or_by_name():
    one = requests.build(
        where="flags",
        mode="joint",
        modality=["segmentation"],
        modality_prompt="segment the two objects",
    )
    assert one.modality_prompts == {"segmentation": "segment the two objects"}
    several = requests.build(
        where="flags", mode="joint", modality=["depth", "flow"], modality_prompt={"flow": "motion"}
    )
    assert several.modality_prompts == {"flow": "motion"}


def test_masks_and_weights_of_the_only_given_stream_or_by_name():
    one = requests.build(where="flags", given={"rgb": "a"}, wanted=["depth"], masks="m", weights=2)
    assert (one.masks, one.weights) == ({"rgb": "m"}, {"rgb": 2})
    given = {"depth": "a", "flow": "b"}
    several = requests.build(
        where="flags", given=given, wanted=["rgb"], masks={"flow": "m"}, weights={"depth": 0.5}
    )
    assert (several.masks, several.weights) == ({"flow": "m"}, {"depth": 0.5})
    assert several.sources == ("a", "b", "m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a mode or given/wanted"),
        (dict(mode="joint", modality=["depth"], wanted=["rgb"]), "either a mode or given/wanted"),
        (dict(mode="paint", modality=["depth"]), "unknown mode 'paint'; choose one of joint"),
        (dict(mode="joint"), "needs a modality other than rgb"),
        (dict(mode="joint", modality=["rgb"]), "needs a modality other than rgb"),
        (dict(mode="joint", modality=["depth"], input="a.mp4"), "takes no input"),
        (dict(mode="estimation", modality=["depth"]), "needs an input"),
        (dict(mode="control", modality=["depth", "flow"], input="a"), "several controls"),
        (dict(given={"rgb": "a"}), "no stream is wanted"),
        (dict(given={"rgb": "a"}, wanted=["depth"], first_frame="b"), "first_frame is of the"),
        (dict(given={"rgb": "a"}, wanted=["depth"], last_frame="b"), "last_frame is of the"),
        (dict(given={"rgb": "a"}, wanted=["rgb"], masks={"flow": "m"}), "which is no given stream"),
        (dict(mode="joint", modality=["depth"], weights=2.0), "for one given stream but there are"),
        (dict(given={"rgb": "a"}, wanted=["depth"], input="b"), "belong to a mode"),
        (
            dict(mode="joint", modality=["depth", "flow"], modality_prompt="x"),
            "for one modality but there are 2",
        ),
        (
            dict(mode="joint", modality=["depth"], modality_prompt={"flow": "x"}),
            "'flow', which is no stream",
        ),
        (dict(mode="joint", modality=["depth"], name="../up"), "names a file or folder, but"),
        (dict(mode="joint", modality=["depth"], prompt="a \udcff"), "not UTF-8"),
    ],
)
def test_bad_requests_are_named(arguments, message):
    with pytest.raises(UserError, match=f"^flags: .*{message}"):
        requests.build(where="flags", **arguments)


def test_batch_file(tmp_path):
    lines = [
        {"mode": "joint", "modality": "depth", "prompt": "a dog"},
        {"mode": "estimation", "modality": ["flow"], "input": "v.mp4", "seed": 9, "name": "bikes"},
        {"given": {"depth": "/abs/d.npz"}, "wanted": "rgb", "modality_prompt": {"depth": "near"}},
        {
            "given": {"rgb": "film.mp4"},
            "wanted": ["rgb", "depth"],
            "strength": 0.5,
            "masks": {"rgb": "m.png"},
            "last_frame": "end.png",
            "negative_prompt": "grass",
            "sampler": {"steps": 3, "guidance_interval": [0, 0.5]},
        },
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    first, second, third, fourth = requests.read_batch_file(path, default_seed=5)
    assert (first.name, first.seed, first.prompt) == ("0000", 5, "a dog")
    assert (second.name, second.seed) == ("bikes", 9)
    assert second.given == {"rgb": str(tmp_path / "v.mp4")}
    assert (third.name, third.seed, third.wanted) == ("0002", 7, ("rgb",))
    assert third.given == {"depth": "/abs/d.npz"}
    assert third.modality_prompts == {"depth": "near"}
    assert (fourth.strength, fourth.negative_prompt) == (0.5, "grass")
    paths = ("film.mp4", "m.png", "end.png")
    assert fourth.sources == tuple(str(tmp_path / name) for name in paths)
    assert fourth.sampler == {"steps": 3, "guidance_interval": [0, 0.5]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ('{"mood": "joint"}', "line 2: unknown key 'mood'; known: name, mode"),
        ('{"mode": "joint", "modality": 3}', "line 2: modality has the wrong type: 3"),
        ('{"mode": "joint", "modality": [3]}', "line 2: modality has the wrong type"),
        ('{"strength": true}', "line 2: strength has the wrong type: true"),
        ('{"weights": {"rgb": "x"}}', "line 2: weights has the wrong type"),
        ('{"mode": "joint", "modality": "depth", "seed": "x"}', "line 2: seed has the wrong type"),
        (
            '{"mode": "joint", "modality": "depth", "name": "A"}',
            "line 2: its name 'A' is .* line 1",
        ),
    ],
)
def test_bad_batch_files_are_named(tmp_path, line, message):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"mode": "joint", "modality": "depth", "name": "a"}\n' + line)
    with pytest.raises(UserError, match=message):
        requests.read_batch_file(path, default_seed=0)


def test_missing_and_empty_batch_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no such batch file"):
        requests.read_batch_file(tmp_path / "none.jsonl", default_seed=0)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no request"):
        requests.read_batch_file(tmp_path / "empty.jsonl", default_seed=0)


def test_pairs():
    assert requests.parse_pairs(["depth=a=b.mp4"], "--given") == {"depth": "a=b.mp4"}
    with pytest.raises(UserError, match="--given: 'depth' is not of the form"):
        requests.parse_pairs(["depth"], "--given")
