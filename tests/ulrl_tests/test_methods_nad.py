"""NAD: attention of a fine-tuned teacher."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.repairs import CPU, clean_samples, rates, repaired, repaired_exactly
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone, classifier_of
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.fitting import Sources
from ulrl.methods._attention import attention, stages_of, watched
from ulrl.methods._loop import seen
from ulrl.methods.nad import NAD, Distil
from ulrl.metrics import Metrics
from ulrl.models import Architecture, Classifier, ModelSpec, Weights, initialise, restore
from ulrl.models.preact_resnet import PreActResNet18, PreActResNet18BN
from ulrl.models.vgg import VGG19BN
from ulrl.models.vit import ViTB16
from ulrl.poison import Poison
from ulrl.randomness import generator


def distil(beta: tuple[float, ...] = (1.0, 10.0, 100.0)) -> Distil:
    return Distil(beta=beta, power=2.0, lr=0.01, epochs=1, weight_decay=0.0, batch_size=8)


def test_maps_are_sums_of_powers_over_channels_of_norm_one() -> None:
    features = torch.randn((2, 5, 3, 3), generator=torch.Generator().manual_seed(0))
    maps = attention(features, 3.0)
    assert maps is not None
    for image in range(2):
        wanted = [
            [sum(abs(float(features[image, c, y, x])) ** 3 for c in range(5)) for x in range(3)]
            for y in range(3)
        ]
        norm = sum(value**2 for row in wanted for value in row) ** 0.5
        for y in range(3):
            assert maps[image, y].tolist() == pytest.approx([v / norm for v in wanted[y]], rel=1e-5)


def test_tokens_and_channels_last_have_the_maps_of_their_grid() -> None:
    features = torch.randn((2, 5, 3, 3), generator=torch.Generator().manual_seed(0))
    maps = attention(features, 2.0)
    assert maps is not None
    last = features.permute(0, 2, 3, 1)
    tokens = torch.cat([torch.ones(2, 1, 5), last.flatten(1, 2)], dim=1)  # a class token first
    for other in (last, tokens, tokens[:, 1:]):
        found = attention(other, 2.0)
        assert found is not None
        torch.testing.assert_close(found, maps)
    assert attention(features[:, :, :1, :1], 2.0) is None
    assert attention(features.flatten(1), 2.0) is None


def network(architecture: Architecture, side: int) -> Classifier:
    preprocessing = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=1, flip=False)
    spec = ModelSpec(
        architecture=architecture, classes=3, channels=3, side=side, preprocessing=preprocessing
    )
    return initialise(spec, generator(0, "test"), CPU)


@pytest.mark.parametrize(
    ("architecture", "side", "paths"),
    [
        (PreActResNet18(width=2), 16, ("layer2", "layer3", "layer4")),
        (PreActResNet18(width=2), 8, ("layer1", "layer2", "layer3")),  # layer4 has one place
        (PreActResNet18BN(width=2), 16, ("layer2", "layer3", "bn")),
        (PreActResNet18(width=2), 2, ("layer1.0", "layer1.1")),  # all of one size
        (VGG19BN(width=1), 16, ("features.12", "features.25", "features.38")),  # before a pool
        (
            ViTB16(size=8, patch=4, width=4, depth=4, heads=1),
            8,
            tuple(f"1.encoder.layers.encoder_layer_{block}" for block in (1, 2, 3)),
        ),
    ],
)
def test_stages_are_the_last_ones_of_more_than_one_place(
    architecture: Architecture, side: int, paths: tuple[str, ...]
) -> None:
    classifier = network(architecture, side)
    images = torch.zeros((2, 3, side, side), dtype=torch.uint8)
    before = classifier.weights().state
    assert stages_of(classifier, images) == paths
    assert same(dict(classifier.weights().state), dict(before))
    with watched(classifier.network, paths) as outputs:
        classifier.logits(images)
    assert all(attention(outputs[path], 2.0) is not None for path in paths)


def test_a_network_without_maps_is_refused() -> None:
    classifier = classifier_of(lambda: HeadAlone(50, 3))
    with pytest.raises(ValueError, match="no feature maps or tokens"):
        stages_of(classifier, torch.zeros((1, 2, 5, 5), dtype=torch.uint8))
    with pytest.raises(ValueError, match="nad compares feature maps, and the network has none"):
        NAD().check(classifier.network, "head", 3)


def test_a_teacher_equal_to_the_student_teaches_nothing(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    paths = ("layer2", "layer3", "layer4")
    features: list[list[Tensor]] = []
    for factor in (1.0, 1.0, 3.0):
        classifier = restore(victim_of(0), CPU)
        classifier.network.eval()
        with watched(classifier.network, paths) as outputs:
            classifier.logits(pictures.test_images[:20])
        features.append([factor * outputs[path].detach() for path in paths])
    assert float(distil().difference(features[0], features[1])) == 0
    assert float(distil().difference(features[0], features[2])) < 1e-9  # norms do not count
    swapped = [value.flip(0) for value in features[0]]
    assert float(distil().difference(features[0], swapped)) > 1e-4


def test_weights_are_those_of_the_last_stages() -> None:
    ours, theirs = torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0, 0], [0, 0]]]])
    # Maps of 0.5 each against one of 1: the mean square is (0.25 + 3 · 0.25) / 4.
    assert float(distil().difference([ours], [theirs])) == pytest.approx(25, rel=1e-4)
    assert float(distil().difference([ours, ours], [theirs, ours])) == pytest.approx(2.5, rel=1e-4)


def features_of(classifier: Classifier, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the outputs of the stages and the logits of a network that is taken apart."""
    network = classifier.network
    x = (images.float() / 255 - torch.tensor([0.5, 0.4, 0.6]).reshape(1, 3, 1, 1)) / torch.tensor(
        [0.25, 0.3, 0.2]
    ).reshape(1, 3, 1, 1)
    x = network.get_submodule("conv1")(x)
    found = []
    for stage in range(1, 5):
        x = network.get_submodule(f"layer{stage}")(x)
        found.append(x)
    return found[1:], network.get_submodule("linear")(x.mean(dim=(2, 3)))


def test_it_is_the_published_loop_written_out(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean, victim = clean_samples(pictures), victim_of(0)
    method = NAD(teacher_epochs=2, epochs=2, batch_size=30)
    found = repaired(method, victim, clean)
    assert same(found.weights.state, repaired(method, victim, clean).weights.state)

    teacher, student = restore(victim, CPU), restore(victim, CPU)
    labels = clean.samples.labels
    for classifier, stage in ((teacher, "relearn"), (student, "distillation")):
        sources = Sources.of(clean.seed, stage)
        parameters = classifier.network.parameters()
        sgd = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)
        for _ in range(2):
            order = torch.randperm(60, generator=sources.order)
            images = seen(classifier, clean.samples, sources, augment=True)
            classifier.network.train()
            for batch in torch.split(order, 30):
                maps, logits = features_of(classifier, images[batch])
                loss = cross_entropy(logits, labels[batch])
                if classifier is student:
                    teacher.network.eval()
                    targets, _ = features_of(teacher, images[batch])
                    for beta, one, other in zip((500, 1000, 1000), maps, targets, strict=True):
                        pair = [(f.detach() if f is other else f) ** 2 for f in (one, other)]
                        flat = [f.sum(dim=1).flatten(1) for f in pair]
                        flat = [f / (f.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-6) for f in flat]
                        loss = loss + beta * ((flat[0] - flat[1]) ** 2).mean()
                sgd.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                sgd.step()
    for name, value in teacher.weights().state.items():
        torch.testing.assert_close(found.stages[0][name], value, rtol=1e-3, atol=1e-4)
    for name, value in student.weights().state.items():
        torch.testing.assert_close(found.weights.state[name], value, rtol=1e-2, atol=1e-3)
    assert len(found.shown) == 2


def test_the_rate_falls_to_a_hundredth_after_twenty_epochs() -> None:
    assert [distil().rate(elapsed) for elapsed in (0, 19.9, 20, 90)] == [0.01, 0.01, 1e-4, 1e-4]


def test_it_repairs_a_victim_and_attention_is_what_does_it(
    victim_of: Callable[[int], Weights], badnets: Poison, pictures: ImageSet
) -> None:
    def after(beta: tuple[float, ...]) -> Metrics:
        method = NAD(batch_size=16, teacher_lr=0.1, lr=0.02, beta=beta)
        found = repaired_exactly(method, victim_of(0), clean_samples(pictures, 0.5))
        return rates(found.weights, badnets, pictures)

    assert rates(victim_of(0), badnets, pictures).asr > 0.9
    without, found = after((0.0, 0.0, 0.0)), after((50.0, 100.0, 100.0))
    assert found.acc > 0.9
    assert found.asr < 0.2
    assert without.asr > found.asr + 0.3


def test_strengths_share_the_teacher() -> None:
    assert NAD(beta=(1.0, 1.0, 1.0), epochs=20).stages[0] == NAD().stages[0]
    assert NAD(beta=(1.0, 1.0, 1.0)).stages[1] != NAD().stages[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": (1.0, 2.0)}, r"^beta is three weights in .*; got \[1\.0, 2\.0\]"),
        ({"beta": (1.0, 2.0, -1.0)}, r"^beta is three weights"),
        ({"power": 0.5}, r"^power is from 1 to 10; got 0\.5"),
        ({"lr": 0.0}, r"^lr is above 0"),
        ({"teacher_epochs": 0}, r"^teacher_epochs is from 1 to 1000; got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NAD(**options)  # type: ignore[arg-type]
