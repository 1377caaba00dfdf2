"""The table of metrics: one class a modality. A further modality is scored once it stands here."""

from unityvideo_jax.metrics.base import Metric
from unityvideo_jax.metrics.densepose import DensePoseMetric
from unityvideo_jax.metrics.depth import DepthMetric
from unityvideo_jax.metrics.flow import FlowMetric
from unityvideo_jax.metrics.segmentation import SegmentationMetric
from unityvideo_jax.metrics.skeleton import SkeletonMetric

METRICS: dict[str, type[Metric]] = {
    metric.modality: metric
    for metric in (DepthMetric, FlowMetric, SegmentationMetric, SkeletonMetric, DensePoseMetric)
}
PROTOCOLS = {name: text for m in METRICS.values() for name, text in m.protocols.items()} | {
    "uniform_t<K>": "flow-matching loss at K fixed timesteps and fixed noise, all three tasks; "
    "streams_<S> has each stream of samples of S streams by itself",
    "near_noise": "the same loss at timesteps near 1, where sampling starts",
    "clean_mse": "error of the clean latents that the model estimates at a timestep beside the "
    "clip's own RGB and beside the next clip's, without captions; mean_clip needs no model",
}
