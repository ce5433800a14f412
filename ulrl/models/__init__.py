"""Architectures by name. A module of this package that registers a class adds one."""

from ulrl.models._base import ARCHITECTURES as ARCHITECTURES
from ulrl.models._base import EVALUATION_BATCH as EVALUATION_BATCH
from ulrl.models._base import TOO_SMALL as TOO_SMALL
from ulrl.models._base import Architecture as Architecture
from ulrl.models._base import Classifier as Classifier
from ulrl.models._base import ModelSpec as ModelSpec
from ulrl.models._base import Weights as Weights
from ulrl.models._base import WeightsError as WeightsError
from ulrl.models._base import initialise as initialise
from ulrl.models._base import register as register
from ulrl.models._base import restore as restore
from ulrl.models._function import from_function as from_function
from ulrl.registry import import_all

import_all(__name__, __path__)
