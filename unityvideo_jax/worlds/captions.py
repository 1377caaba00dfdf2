"""Captions and modality prompts in plain English, from the contents of a scene."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.config import WorldConfig
from unityvideo_jax.worlds.scene import Scene

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_PLURAL = {"box": "boxes", "ball": "balls", "cylinder": "cylinders", "person": "people",
           "man": "men", "woman": "women", "child": "children", "sheep": "sheep"}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """The text of one clip.

    Attributes:
      caption: describes the clip, for RGB.
      prompts: text per modality; that of segmentation names the things to segment.
    """

    caption: str
    prompts: dict[str, str]


def describe(config: WorldConfig, scenes: Scene) -> list[Description]:
    """Describes B scenes, on the host; the wording is a function of the scene.

    Args:
      config: as for `sample_scenes`.
      scenes: B scenes.
    """
    del config
    host = jax.device_get(scenes)
    return [_Writer(jax.tree.map(lambda x, i=i: x[i], host)).description() for i in
            range(len(host.words))]  # fmt: skip


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _plural(noun: str) -> str:
    return _PLURAL.get(noun, f"{noun}s")


def _join(items: Sequence[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


class _Writer:
    """Writes about one scene; every choice of words is drawn from the scene's own seed."""

    def __init__(self, scene: Any):
        self.scene = scene
        self.rng = np.random.default_rng(int(scene.words))

    def pick(self, *options: str) -> str:
        return options[self.rng.integers(len(options))]

    def description(self) -> Description:
        return Description(caption=self.caption(), prompts=self.prompts())

    # People and objects.

    def actors(self) -> list[int]:
        return [i for i, kind in enumerate(self.scene.actors.kind) if kind != looks.NOBODY]

    def things(self) -> list[int]:
        return [i for i, active in enumerate(self.scene.things.active) if active]

    def species(self, i: int) -> str:
        if self.scene.actors.kind[i] == looks.BIRD:
            return "bird"
        return looks.SPECIES[self.scene.actors.species[i]]

    def person(self, i: int) -> str:
        a = self.scene.actors
        shirt, trousers = (looks.COLOUR_NAMES[n] for n in (a.shirt_name[i], a.trousers_name[i]))
        pattern = looks.PATTERNS[a.pattern[i]]
        shirt = shirt if pattern == "plain" else f"{pattern} {shirt}"
        legs = f"{trousers} {'shorts' if a.shorts[i] else self.pick('trousers', 'pants')}"
        top = f"{shirt} {'shirt' if a.long_sleeves[i] else 't-shirt'}"
        hair = f"{'long ' if a.long_hair[i] else ''}{looks.HAIR_NAMES[a.hair_name[i]]} hair"
        who = looks.WHO[a.who[i]]
        clothes = self.pick(
            f"in {_article(top)}",
            f"in {_article(top)} and {legs}",
            f"wearing {_article(top)} and {legs}",
            f"with {hair} and {_article(top)}",
        )
        return f"{_article(who)} {clothes}"

    def animal(self, i: int) -> str:
        return _article(f"{looks.FUR_NAMES[self.scene.actors.fur_name[i]]} {self.species(i)}")

    def deed(self, i: int) -> str:
        a = self.scene.actors
        kind, motion = a.kind[i], a.motion[i]
        if kind == looks.BIRD:
            if motion == looks.BIRD_FLIES:
                return self.pick("flies by", "flies past, flapping its wings")
            return self.pick("walks along", "struts across the ground")
        if kind == looks.QUADRUPED:
            return self.pick("trots along", "runs across the scene") if motion == looks.RUN else (
                self.pick("walks along", "walks across the scene", "strolls by"))  # fmt: skip
        return {
            looks.WALK: lambda: self.pick("walks along", "walks across the scene", "strolls by"),
            looks.RUN: lambda: self.pick("runs past", "jogs across the scene", "runs"),
            looks.WAVE: lambda: self.pick("waves", "waves a hand", "stands and waves"),
            looks.JUMP: lambda: self.pick("jumps", "jumps up and down", "hops up into the air"),
            looks.SIT: lambda: self.pick("sits down on a box", "sits down", "takes a seat"),
            looks.KICK: lambda: self.pick("kicks a ball", "kicks a small ball away"),
        }[int(motion)]()

    def thing(self, i: int) -> str:
        o = self.scene.things
        colour, name = looks.COLOUR_NAMES[o.colour_name[i]], looks.OBJECT_NAMES[o.kind[i]]
        if o.material[i] == looks.GLASS:
            return f"glass {name}"
        shiny = self.pick("shiny ", "glossy ") if o.material[i] == looks.GLOSSY else ""
        texture = looks.PATTERNS[o.texture[i]]
        texture = "" if texture == "plain" or self.rng.random() < 0.5 else f"{texture} "
        return f"{shiny}{texture}{colour} {name}"

    def thing_deed(self, i: int) -> str:
        kind = self.scene.things.kind[i]
        deed = self.scene.things.behaviour[i]
        if deed == looks.FALL:
            if kind == looks.BALL:
                return self.pick("bounces on the ground", "falls and bounces", "drops and bounces")
            return self.pick("falls to the ground", "drops to the ground")
        if deed == looks.ROLL:
            return self.pick("rolls by", "rolls across the ground", "rolls along")
        return self.pick("lies on the ground", "rests nearby", "stands still")

    # Sentences.

    def caption(self) -> str:
        actors, things = self.actors(), self.things()
        parts = []
        for i in actors:
            is_person = self.scene.actors.kind[i] == looks.PERSON
            parts.append(f"{self.person(i) if is_person else self.animal(i)} {self.deed(i)}")
        moving, still = [], []
        for i in things:
            deed = self.scene.things.behaviour[i]
            if deed in (looks.SEAT, looks.KICKED):
                continue  # described with who uses it
            (still if deed == looks.REST else moving).append(i)
        sentences = []
        if parts:
            link = self.pick(", ", " while ") if len(parts) == 2 else ", "
            head = parts[0] if len(parts) == 1 else (
                f"{parts[0]}{link}{parts[1]}" if link == " while " else _join(parts))  # fmt: skip
            sentences.append(_sentence(f"{head}{self.pick(self.where(), '')}"))
        described = [f"{_article(self.thing(i))} {self.thing_deed(i)}" for i in moving]
        if described:
            sentences.append(_sentence(_join(described[:3])))
        if still:
            names = _join([_article(self.thing(i)) for i in still[:3]])
            verb = "stand" if len(still[:3]) > 1 else "stands"
            sentences.append(_sentence(self.pick(
                f"{names} {verb} on the ground", f"there {'are' if len(still[:3]) > 1 else 'is'} "
                f"{names} nearby")))  # fmt: skip
        if not parts or self.rng.random() < 0.4:
            sentences.append(_sentence(self.setting()))
        if self.rng.random() < 0.5:
            sentences.append(_sentence(self.camera()))
        return " ".join(sentences)

    def ground(self) -> str:
        return looks.GROUNDS[self.scene.surroundings.ground]

    def where(self) -> str:
        ground, place = self.ground(), self.scene.surroundings.place
        on = f" on {ground}" if ground in ("grass", "concrete", "sand") else f" on a {ground}"
        if place == looks.ROOM:
            return self.pick(" in a room", f"{on} in a room")
        if place == looks.WALL:
            return self.pick(" in front of a wall", f"{on} in front of a wall")
        return self.pick(" outdoors", on, f"{on} under an open sky")

    def setting(self) -> str:
        ground = self.ground()
        on = ground if ground in ("grass", "concrete", "sand") else f"a {ground}"
        return {
            looks.ROOM: f"the scene is a room with {on}",
            looks.WALL: f"a wall stands behind {on}",
            looks.OPEN: f"it is an open place with {on}",
        }[int(self.scene.surroundings.place)]

    def camera(self) -> str:
        path = self.scene.camera
        return {
            looks.STATIC: self.pick("the camera does not move", "a static shot"),
            looks.ORBIT: self.pick("the camera circles around", "the camera orbits the scene"),
            looks.DOLLY: "the camera moves closer" if path.distance_rate < 0 else (
                "the camera pulls back"),
            looks.PAN: "the camera pans to the left" if path.pan_rate > 0 else (
                "the camera pans to the right"),
        }[int(path.kind)]  # fmt: skip

    # Prompts of each modality.

    def prompts(self) -> dict[str, str]:
        return {
            "depth": self.pick(
                "estimate the depth of the scene", "a depth map of the scene",
                "how far away everything is",
            ),
            "flow": self.pick(
                "the optical flow of the video", "show how every pixel moves",
                "estimate the motion between frames",
            ),
            "segmentation": self.segmentation(),
            "skeleton": self.skeleton(),
            "densepose": self.pick(
                "the dense pose of the people", "label the body parts of every person",
                "map the surface of each body",
            ),
        }  # fmt: skip

    def skeleton(self) -> str:
        count = int((self.scene.actors.kind == looks.PERSON).sum())
        whom = "the person" if count == 1 else f"the {_NUMBERS[count]} people"
        if count == 0:
            whom = "every person"
        return self.pick(
            f"the skeleton of {whom}", f"draw the body keypoints of {whom}", f"the pose of {whom}"
        )

    def segmentation(self) -> str:
        asked = np.asarray(self.scene.asked)
        actors = [i for i in self.actors() if asked[i]]
        things = [i for i in self.things() if asked[looks.MAX_ACTORS + i]]
        verb = self.pick("segment", "segment", "mask", "mark")
        names = [self.asked_actors(actors), self.asked_things(things)]
        return f"{verb} {_join([name for name in names if name])}"

    def asked_actors(self, chosen: list[int]) -> str:
        if not chosen:
            return ""
        a = self.scene.actors
        people = [i for i in self.actors() if a.kind[i] == looks.PERSON]
        if len(chosen) == 1 and len(people) > 1 and chosen[0] in people:
            return f"the person in the {looks.COLOUR_NAMES[a.shirt_name[chosen[0]]]} shirt"
        if all(a.kind[i] == looks.PERSON for i in chosen):
            return "the person" if len(chosen) == 1 else f"the {_NUMBERS[len(chosen)]} people"
        species = [self.species(i) for i in chosen]
        if len(chosen) == 1:
            return f"the {species[0]}"
        noun = _plural(species[0]) if len(set(species)) == 1 else "animals"
        return f"the {_NUMBERS[len(chosen)]} {noun}"

    def asked_things(self, chosen: list[int]) -> str:
        if not chosen:
            return ""
        names = [looks.OBJECT_NAMES[self.scene.things.kind[i]] for i in chosen]
        return "the object" if len(names) == 1 else f"the {_NUMBERS[len(names)]} objects"
