"""ULRL: removing backdoors from neural networks with a few clean samples.

Unlearn to expose suspicious neurons, reinitialise and relearn with a cosine penalty
(Min, Pham, Sun: arXiv:2405.14781). `repair` does it to any network.
"""

from ulrl.datasets import Treatment as Treatment
from ulrl.defence import Repair as Repair
from ulrl.defence import repair as repair
from ulrl.hyperparameters import Preset as Preset
