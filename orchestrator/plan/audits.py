"""Which models of a study are audited, and by what clean samples."""

from collections.abc import Iterable

from orchestrator.plan.jobs import AuditTarget
from orchestrator.plan.plan import Plan, Trial
from orchestrator.spec.model import AuditedModels


def audits_of_victims(plan: Plan) -> list[AuditTarget]:
    """Return the audits of all victims: each by all the clean samples that trials have.

    An audit that takes no samples has one for each victim.
    """
    found: dict[object, AuditTarget] = {}
    for trial in plan.rows:
        for place, audit in enumerate(plan.study.audits):
            samples = (trial.hyperparameters.clean, trial.defence_seed)
            name = (place, trial.scenario.number, samples if audit.needs_samples else None)
            found.setdefault(
                name, AuditTarget(audit=audit, place=place, trial=trial, repaired=False)
            )
    return list(found.values())


def audits_of_repaired(plan: Plan, trials: Iterable[Trial]) -> list[AuditTarget]:
    """Return all audits of the repaired models of trials."""
    return [
        AuditTarget(audit=audit, place=place, trial=trial, repaired=True)
        for trial in trials
        for place, audit in enumerate(plan.study.audits)
    ]


def planned_audits(plan: Plan) -> list[AuditTarget]:
    """Return as many audits as there will be, with any trial of a method in the best one's place.

    A method of which no trial is done, or whose models are all wrecked, will have none.
    """
    audited = plan.study.audited
    trials = plan.rows if audited is AuditedModels.ALL else []
    if audited is AuditedModels.BEST:
        apt = [trial for trial in plan.rows if not trial.is_oracle]  # an oracle's is never the best
        trials = list({(t.scenario.number, t.method_name): t for t in apt}.values())
    return audits_of_victims(plan) + audits_of_repaired(plan, trials)
