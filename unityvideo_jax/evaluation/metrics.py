"""The table of metrics: one class a modality. A further modality is scored once it stands here."""

from unityvideo_jax.evaluation.densepose import DensePoseMetric
from unityvideo_jax.evaluation.depth import DepthMetric
from unityvideo_jax.evaluation.flow import FlowMetric
from unityvideo_jax.evaluation.metric import Metric
from unityvideo_jax.evaluation.segmentation import SegmentationMetric
from unityvideo_jax.evaluation.skeleton import SkeletonMetric

METRICS: dict[str, type[Metric]] = {
    metric.modality: metric
    for metric in (DepthMetric, FlowMetric, SegmentationMetric, SkeletonMetric, DensePoseMetric)
}
PROTOCOLS = {name: text for m in METRICS.values() for name, text in m.protocols.items()} | {
    "uniform_t<K>": "flow-matching loss at K fixed timesteps and fixed noise, all three tasks",
}
