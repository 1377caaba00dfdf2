"""Named colours and other choices that captions mention. Indices are stored in the Scene."""

import numpy as np

# Linear RGB.
COLOURS = {
    "red": (0.62, 0.035, 0.03),
    "orange": (0.80, 0.22, 0.02),
    "yellow": (0.82, 0.58, 0.04),
    "green": (0.06, 0.33, 0.08),
    "blue": (0.03, 0.12, 0.55),
    "purple": (0.24, 0.05, 0.38),
    "pink": (0.80, 0.25, 0.38),
    "brown": (0.20, 0.09, 0.035),
    "black": (0.025, 0.025, 0.03),
    "white": (0.78, 0.78, 0.76),
    "gray": (0.22, 0.23, 0.25),
    "teal": (0.02, 0.33, 0.34),
}
COLOUR_NAMES = tuple(COLOURS)
COLOUR_TABLE = np.asarray(list(COLOURS.values()), np.float32)

TROUSER_COLOURS = ("blue", "black", "gray", "brown", "white", "green", "red")
SKIN = np.asarray(
    [(0.72, 0.46, 0.34), (0.60, 0.34, 0.22), (0.42, 0.22, 0.12), (0.24, 0.115, 0.06),
     (0.12, 0.055, 0.03), (0.80, 0.55, 0.44)], np.float32)  # fmt: skip
HAIR_NAMES = ("black", "brown", "blond", "red", "gray")
HAIR = np.asarray(
    [(0.012, 0.01, 0.01), (0.085, 0.035, 0.014), (0.55, 0.36, 0.12), (0.34, 0.075, 0.015),
     (0.40, 0.40, 0.42)], np.float32)  # fmt: skip
FUR_NAMES = ("brown", "black", "white", "gray", "golden")
FUR = np.asarray(
    [(0.20, 0.09, 0.035), (0.02, 0.02, 0.022), (0.72, 0.70, 0.66), (0.25, 0.25, 0.27),
     (0.55, 0.30, 0.08)], np.float32)  # fmt: skip

NOBODY, PERSON, QUADRUPED, BIRD = range(4)
MOTIONS = ("walk", "run", "wave", "jump", "sit", "kick")
WALK, RUN, WAVE, JUMP, SIT, KICK = range(6)
BIRD_FLIES = RUN  # a bird whose motion is `run` flies, any other walks
SPECIES = ("dog", "cat", "horse", "sheep")
WHO = ("man", "woman", "child", "person")
PATTERNS = ("plain", "striped", "checked")

BOX, BALL, CYLINDER = range(3)
OBJECT_NAMES = ("box", "ball", "cylinder")
REST, FALL, ROLL, KICKED, SEAT = range(5)
MATTE, GLOSSY, GLASS = range(3)

GROUNDS = ("tiled floor", "grass", "wooden floor", "concrete", "sand")
TILES, GRASS, WOOD, CONCRETE, SAND = range(5)
PLACES = ("open", "wall", "room")
OPEN, WALL, ROOM = range(3)
CAMERAS = ("static", "orbit", "dolly", "pan")
STATIC, ORBIT, DOLLY, PAN = range(4)

MAX_ACTORS, MAX_OBJECTS = 3, 6
