"""Datasets by name. A module of this package that registers a class adds one."""

from ulrl.datasets._base import DATASETS as DATASETS
from ulrl.datasets._base import Dataset as Dataset
from ulrl.datasets._base import DatasetError as DatasetError
from ulrl.datasets._base import DatasetInfo as DatasetInfo
from ulrl.datasets._base import Fetched as Fetched
from ulrl.datasets._base import ImageSet as ImageSet
from ulrl.datasets._base import Preprocessing as Preprocessing
from ulrl.datasets._base import register as register
from ulrl.datasets._own import check_normalisation as check_normalisation
from ulrl.datasets._torch import from_torch as from_torch
from ulrl.registry import import_all

import_all(__name__, __path__)
