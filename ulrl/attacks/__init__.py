"""Attacks by name. A module of this package that registers a class adds one."""

from ulrl.attacks._base import ATTACKS as ATTACKS
from ulrl.attacks._base import DIRTY_LABELS as DIRTY_LABELS
from ulrl.attacks._base import NOTHING_LEARNED as NOTHING_LEARNED
from ulrl.attacks._base import Attack as Attack
from ulrl.attacks._base import FixedAttack as FixedAttack
from ulrl.attacks._base import Images as Images
from ulrl.attacks._base import LabelRule as LabelRule
from ulrl.attacks._base import Learned as Learned
from ulrl.attacks._base import Split as Split
from ulrl.attacks._base import Stamp as Stamp
from ulrl.attacks._base import Trigger as Trigger
from ulrl.attacks._base import in_bytes as in_bytes
from ulrl.attacks._base import register as register
from ulrl.attacks._base import stamp_bytes as stamp_bytes
from ulrl.attacks._files import AttackFileError as AttackFileError
from ulrl.attacks._helper import HELPER_VERSION as HELPER_VERSION
from ulrl.attacks._helper import AttackContext as AttackContext
from ulrl.attacks._helper import Helper as Helper
from ulrl.attacks._helper import Step as Step
from ulrl.attacks._hooks import Roles as Roles
from ulrl.attacks._hooks import StampingHooks as StampingHooks
from ulrl.attacks._per_image import image_generators as image_generators
from ulrl.registry import import_all

import_all(__name__, __path__)
