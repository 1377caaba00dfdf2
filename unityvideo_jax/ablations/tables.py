"""Rows, columns and claims of the paper's figure 2 and tables 2 to 4, and our columns for them.

The paper's columns are VBench's, most of which need networks that are not available offline. What
is measured instead are columns of our own; each claim of the paper is asked of all of them.
"""

import dataclasses

PLAUSIBILITY = "plausibility_error/likephys_t5/all/rgb"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A measured column.

    Attributes:
      title: of the column.
      key: of the metric; "{way}" is how the row's RGB is sampled.
      lower_is_better: which way is good.
      digits: after the point.
    """

    title: str
    key: str
    lower_is_better: bool = True
    digits: int = 3

    def of(self, way: str) -> str:
        """The key for a way of sampling RGB."""
        return self.key.format(way=way)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row: an arm whose RGB is sampled in one way, and its name in the paper.

    Attributes:
      title: of the row.
      arm: that it is of.
      way: "alone", "joint+<modality>", "joint" (the mean of these) or "control".
      paper: the paper's system in its table; "" if it has none.
    """

    title: str
    arm: str
    way: str = "alone"
    paper: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper about two rows.

    Attributes:
      text: in words.
      row, base: places in the table's rows.
      better: whether it says that `row` is better than `base`, or worse.
    """

    text: str
    row: int
    base: int
    better: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper.

    Attributes:
      number: of the table or figure.
      title: of it.
      rows: its rows.
      paper: keys of the paper's columns.
      claims: of the paper about it.
    """

    number: str
    title: str
    rows: tuple[Row, ...]
    paper: tuple[str, ...]
    claims: tuple[Claim, ...]


ALONE = Column(title="RGB loss, alone", key="rgb_loss/alone", digits=4)
PLAUSIBLE = Column(title="plausibility error, RGB", key=PLAUSIBILITY)
COLUMNS = (
    ALONE,
    Column(title="RGB loss, as sampled", key="rgb_loss/{way}", digits=4),
    Column(title="Fréchet proxy", key="frechet_proxy/{way}"),
    Column(
        title="temporal flickering",
        key="temporal_flickering/{way}",
        lower_is_better=False,
        digits=2,
    ),
    PLAUSIBLE,
)
CONSISTENT = ("vbench/subject_consistency", "vbench/background_consistency")
# VBench's columns that need no network, and the measured key of the same name.
MEASURED = {"vbench/temporal_flickering": "temporal_flickering/{way}"}

TABLES = (
    Table(
        number="2",
        title="modalities (and figure 2)",
        rows=(
            Row(title="RGB alone (baseline)", arm="rgb", paper="baseline"),
            Row(title="with flow only", arm="flow", way="joint+flow", paper="only flow"),
            Row(title="with depth only", arm="depth", way="joint+depth", paper="only depth"),
            Row(title="with DensePose only", arm="densepose", way="joint+densepose"),
            Row(title="all, sampled with flow", arm="all", way="joint+flow", paper="unified, flow"),
            Row(
                title="all, sampled with depth", arm="all", way="joint+depth",
                paper="unified, depth",
            ),
            Row(title="all, RGB sampled alone", arm="all"),
            Row(title="RGB alone at equal compute", arm="rgb_equal_compute"),
        ),
        paper=(*CONSISTENT, "vbench/imaging_quality", "vbench/overall_consistency"),
        claims=(
            Claim(text="flow improves RGB", row=1, base=0),
            Claim(text="depth improves RGB", row=2, base=0),
            Claim(text="all modalities improve RGB", row=6, base=0),
            Claim(text="all modalities, sampled with flow, beat flow alone", row=4, base=1),
            Claim(text="all modalities, sampled with depth, beat depth alone", row=5, base=2),
            Claim(text="figure 2: all modalities beat DensePose alone", row=6, base=3),
            Claim(text="(not the paper's) all beat RGB alone at equal compute", row=6, base=7),
        ),
    ),
    Table(
        number="3",
        title="tasks",
        rows=(
            Row(title="RGB alone (baseline)", arm="rgb", paper="baseline"),
            Row(title="only control", arm="only_control", way="control", paper="only control"),
            Row(title="only joint", arm="only_joint", way="joint", paper="only joint"),
            Row(title="only estimation", arm="only_estimation"),
            Row(title="all tasks, control", arm="all", way="control", paper="unified, control"),
            Row(title="all tasks, joint", arm="all", way="joint", paper="unified, joint"),
        ),
        paper=(*CONSISTENT, "vbench/temporal_flickering", "vbench/motion_smoothness"),
        claims=(
            Claim(text="only joint generation improves on RGB alone", row=2, base=0),
            Claim(text="only control does not: it is worse than RGB alone", row=1, base=0,
                  better=False),
            Claim(text="with all tasks control is better than alone", row=4, base=1),
            Claim(text="with all tasks joint generation is better than alone", row=5, base=2),
        ),
    ),
    Table(
        number="4",
        title="architecture",
        rows=(
            Row(title="RGB alone (the paper's baseline)", arm="rgb", paper="baseline"),
            Row(title="neither", arm="neither", way="joint"),
            Row(title="in-context learner alone", arm="only_in_context", way="joint",
                paper="with in-context learner"),
            Row(title="switcher alone (AdaLN)", arm="only_adaln", way="joint",
                paper="with modality switcher"),
            Row(title="switcher alone (additive, release)", arm="only_additive", way="joint"),
            Row(title="both", arm="all", way="joint", paper="both"),
        ),
        paper=(*CONSISTENT, "vbench/temporal_flickering", "vbench/motion_smoothness"),
        claims=(
            Claim(text="the in-context learner improves on neither", row=2, base=1),
            Claim(text="the switcher improves on neither", row=3, base=1),
            Claim(text="both are better than the in-context learner alone", row=5, base=2),
            Claim(text="both are better than the switcher alone", row=5, base=3),
        ),
    ),
)  # fmt: skip
