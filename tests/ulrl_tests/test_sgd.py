"""SGD: torch's own steps to the bit, and none of torch's compiler."""

import subprocess
import sys
from collections.abc import Callable
from textwrap import dedent

import pytest
import torch
from torch import Tensor, nn

from ulrl.precision import Precision
from ulrl.sgd import SGD, Optimiser

CPU = torch.device("cpu")
Settings = dict[str, float | bool]
SETTINGS: list[Settings] = [
    {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0},
    {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
    {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.1, "nesterov": True},
]


TRIAL = dedent("""
    import sys
    import torch
    from ulrl.attacks.badnets import BadNets
    from ulrl.clean import CleanConfig, draw_clean_samples
    from ulrl.datasets.digits import Digits
    from ulrl.hyperparameters import assemble
    from ulrl.models import ModelSpec
    from ulrl.models.preact_resnet import PreActResNet18
    from ulrl.poison import LabelRule, Poison
    from ulrl.relearning import relearn
    from ulrl.weight_selection import select_weights
    from ulrl.scoring import score_neurons
    from ulrl.supervised import VictimConfig
    from ulrl.unlearning import unlearn
    from ulrl.victim import train_victim

    cpu, digits = torch.device("cpu"), Digits()
    images = digits.load()
    network, preprocessing = PreActResNet18(width=1), digits.preprocessing
    shape = {"classes": 10, "channels": 3, "side": digits.size}
    model_spec = ModelSpec(architecture=network, preprocessing=preprocessing, **shape)
    rule = LabelRule.ALL_TO_ONE
    poison = Poison(attack=BadNets(), labels=rule, poison_ratio=0.1, target_label=0)
    run = train_victim(VictimConfig(epochs=1), model_spec, poison, images, 0, cpu)
    list(run.epochs)
    parts = assemble({"unlearn_epochs": 1, "relearn_epochs": 1})
    victim, clean = run.classifier.weights(), draw_clean_samples(CleanConfig(), images, 0)
    *_, ascent = unlearn(parts.unlearn, victim, clean, 0.0, cpu)
    suspects = select_weights(parts.reset, score_neurons(parts.score, ascent))
    epochs = list(relearn(parts.relearn, victim, suspects, clean, cpu).epochs)
    print("relearned", len(epochs), "with" if "torch._dynamo" in sys.modules else "without", "it")
""")


class Branches(nn.Module):
    """Two layers, of which an input may leave one out."""

    def __init__(self) -> None:
        super().__init__()
        self.always = nn.Linear(7, 5)
        self.seldom = nn.Linear(5, 5)

    def forward(self, values: Tensor, *, both: bool) -> Tensor:
        found: Tensor = self.always(values)
        return self.seldom(found) if both else found


def steps(network: Branches, optimiser: Optimiser) -> list[Tensor]:
    """Take ten steps at a falling rate, some of them without gradients of one layer."""
    draws = torch.Generator().manual_seed(3)
    for number in range(10):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 / (1 + number)
        optimiser.zero_grad()
        values = torch.randn(16, 7, generator=draws)
        network(values, both=number % 3 != 0).square().mean().backward()
        optimiser.step()
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_makes_the_steps_of_torch_to_the_bit(settings: Settings) -> None:
    ours, theirs = Branches(), Branches()
    theirs.load_state_dict(ours.state_dict())
    was = [parameter.detach().clone() for parameter in ours.parameters()]
    make: Callable[..., Optimiser] = SGD
    moved = steps(ours, make(ours, **settings))
    reference = torch.optim.SGD(theirs.parameters(), fused=True, **settings)  # type: ignore[arg-type]
    if settings["momentum"]:
        # Its own first step cannot go without some of the gradients.
        for parameter in theirs.parameters():
            reference.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    expected = steps(theirs, reference)
    assert all(map(torch.equal, moved, expected))
    assert not any(map(torch.equal, moved, was))


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_loss_scaling_makes_the_steps_of_torch_to_the_bit(settings: Settings) -> None:
    """Also with gradients that the scaler has divided already, as before clipping."""
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    make: Callable[..., Optimiser] = SGD
    pairs: list[tuple[nn.Module, Optimiser]] = [
        (ours, make(ours, **settings)),
        (theirs, torch.optim.SGD(theirs.parameters(), fused=True, **settings)),  # type: ignore[arg-type]
    ]
    for network, optimiser in pairs:
        scaler = Precision.FP16.scaler(CPU)
        for number, factor in enumerate((1.0, torch.inf, 2.0, 0.5)):
            optimiser.zero_grad()
            loss = network(torch.full((2, 4), factor)).mean()
            scaler.scale(loss).backward()
            if number % 2:
                scaler.unscale_(optimiser)  # type: ignore[arg-type]
            scaler.step(optimiser)  # type: ignore[arg-type]
            scaler.update()
    assert torch.equal(ours.weight, theirs.weight)
    assert bool(ours.weight.isfinite().all())


def test_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimiser = SGD(layer, lr=0.5, momentum=0.5, weight_decay=0.25)
    for _ in range(2):
        optimiser.zero_grad()
        layer(torch.ones(1, 1)).sum().backward()
        optimiser.step()
    # v = 1 + 2/4 = 1.5, w = 2 - 0.75 = 1.25; v = 0.75 + 1 + 1.25/4 = 2.0625, w = 1.25 - 1.03125
    assert layer.weight.item() == 0.21875


def test_a_trial_imports_no_compiler() -> None:
    """Torch's own optimisers do, which costs every process a second."""
    done = subprocess.run(
        [sys.executable, "-c", TRIAL], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("relearned 1 without it\n", "")
