"""Victims from elsewhere in, models out to others."""

from ulrl.interchange._backdoorbench import BackdoorBenchRun as BackdoorBenchRun
from ulrl.interchange._backdoorbench import read_backdoorbench as read_backdoorbench
from ulrl.interchange._backdoorbench import zoo_name as zoo_name
from ulrl.interchange._export import export_model as export_model
from ulrl.interchange._export import load_exported as load_exported
from ulrl.interchange._facts import PoisonedCount as PoisonedCount
from ulrl.interchange._facts import VictimFacts as VictimFacts
from ulrl.interchange._refusal import ImportRefused as ImportRefused
from ulrl.interchange._sets import imported_test_sets as imported_test_sets
from ulrl.interchange._state import fit_state as fit_state
from ulrl.interchange._state import read_state as read_state
from ulrl.interchange._state import sketch_of as sketch_of
from ulrl.interchange._triggered import TriggeredImages as TriggeredImages
from ulrl.interchange._triggered import read_triggered as read_triggered
from ulrl.interchange._victim import ImportedVictim as ImportedVictim
from ulrl.interchange._victim import check_scenario as check_scenario
from ulrl.interchange._victim import fingerprint as fingerprint
from ulrl.interchange._victim import load_victim as load_victim
