"""Attacks by name. A module of this package that registers a class adds one."""

from ulrl.attacks._base import ATTACKS as ATTACKS
from ulrl.attacks._base import register as register
from ulrl.attacks._files import AttackFileError as AttackFileError
from ulrl.attacks._per_image import image_generators as image_generators
from ulrl.helper import HELPER_VERSION as HELPER_VERSION
from ulrl.helper import NOTHING_LEARNED as NOTHING_LEARNED
from ulrl.helper import AttackContext as AttackContext
from ulrl.helper import Helper as Helper
from ulrl.helper import Learned as Learned
from ulrl.helper import Step as Step
from ulrl.poison import DIRTY_LABELS as DIRTY_LABELS
from ulrl.poison import Attack as Attack
from ulrl.poison import FixedAttack as FixedAttack
from ulrl.poison import Images as Images
from ulrl.poison import LabelRule as LabelRule
from ulrl.poison import Roles as Roles
from ulrl.poison import Split as Split
from ulrl.poison import Stamp as Stamp
from ulrl.poison import StampingHooks as StampingHooks
from ulrl.poison import Trigger as Trigger
from ulrl.poison import in_bytes as in_bytes
from ulrl.poison import stamp_bytes as stamp_bytes
from ulrl.registry import import_all

import_all(__name__, __path__)
