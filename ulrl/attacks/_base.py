"""The registry of attacks."""

from ulrl.poison import Attack
from ulrl.registry import registrar

ATTACKS: dict[str, type[Attack]] = {}
register = registrar("attack", ATTACKS)
