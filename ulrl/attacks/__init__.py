"""Attacks by name. A module of this package that registers a class adds one."""

from ulrl.attacks._base import ATTACKS as ATTACKS
from ulrl.attacks._base import Attack as Attack
from ulrl.attacks._base import Images as Images
from ulrl.attacks._base import LabelRule as LabelRule
from ulrl.attacks._base import Stamp as Stamp
from ulrl.attacks._base import register as register
from ulrl.attacks._base import stamp_bytes as stamp_bytes
from ulrl.registry import import_all

import_all(__name__, __path__)
