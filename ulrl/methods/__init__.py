"""Repair methods beside ULRL, by name. A module of this package that registers a class adds one."""

from ulrl.methods._base import CHOOSES as CHOOSES
from ulrl.methods._base import METHODS as METHODS
from ulrl.methods._base import ULRL as ULRL
from ulrl.methods._base import RepairContext as RepairContext
from ulrl.methods._base import RepairMethod as RepairMethod
from ulrl.methods._base import RepairStage as RepairStage
from ulrl.methods._base import Tensors as Tensors
from ulrl.methods._base import register as register
from ulrl.methods._tuning import TUNERS as TUNERS
from ulrl.methods._tuning import TuningMethod as TuningMethod
from ulrl.methods._tuning import register_tuner as register_tuner
from ulrl.registry import import_all

import_all(__name__, __path__)
