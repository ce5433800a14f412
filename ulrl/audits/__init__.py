"""Audits of a model, by name. A module of this package that registers a class adds one."""

from ulrl.audits._base import AUDITS as AUDITS
from ulrl.audits._base import Audit as Audit
from ulrl.audits._base import AuditResult as AuditResult
from ulrl.audits._base import audit_context as audit_context
from ulrl.audits._base import register as register
from ulrl.registry import import_all

import_all(__name__, __path__)
