"""All that a comparison imports, at once: a server of processes loads it before it forks them."""

import torch

from benchmarks.peers.folder import make_importable

make_importable(None)
torch.set_num_threads(1)

import timm  # noqa: E402, F401
import torch_pruning  # noqa: E402, F401
import torchvision.models  # noqa: E402, F401

import compress.prune  # noqa: E402, F401
