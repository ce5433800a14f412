"""The structure of ULRL's official loop, rebuilt from a description of what it does.

Not a line of it is the official code's. What makes it slow is all here: pictures are opened
one by one by worker processes that start anew for every pass, triggered test pictures are PNG
files, every epoch of both phases ends with a test of all clean and all triggered pictures, two
plots and a table, and in phase 2 each step is followed by a second forward pass.

The random draws are this project's, and so are the network and the optimiser's settings: what
it computes is therefore the same, and has to come out the same.
"""

import csv
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import cos, pi, sqrt
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional  # type: ignore[import-untyped]

from ulrl.augmentation import Views, draw_views
from ulrl.clean import CleanSamples
from ulrl.datasets import Preprocessing
from ulrl.hyperparameters import Hyperparameters
from ulrl.models import Weights, restore
from ulrl.poisoning import TestHalf
from ulrl.randomness import generator

BATCH = 128  # of tests
CPU = torch.device("cpu")


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures that become a network's input one at a time, as they are asked for."""

    def __init__(
        self, files: Sequence[bytes | Path], labels: Tensor, preprocessing: Preprocessing
    ) -> None:
        self._files = files
        self._labels = labels.tolist()
        self._preprocessing = preprocessing
        self.views: Views | None = None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self._files[index]
        picture: Image.Image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        picture = picture.convert("RGB")
        if self.views is not None:
            side = picture.size[0]
            top, left = int(self.views.top[index]), int(self.views.left[index])
            picture = functional.pad(picture, [self._preprocessing.padding])
            picture = functional.crop(picture, top, left, side, side)
            if self.views.mirrored[index]:
                picture = functional.hflip(picture)
        values = functional.to_tensor(picture)
        values = functional.normalize(values, self._preprocessing.mean, self._preprocessing.std)
        return values, self._labels[index]


def as_png(image: Tensor) -> bytes:
    """Return a stored image as a PNG file's content."""
    content = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, "png")
    return content.getvalue()


def in_batches(
    pictures: Pictures, size: int, workers: int, order: list[int] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return batches of pictures, from worker processes that start now."""
    with warnings.catch_warnings():  # of more workers than cores
        warnings.simplefilter("ignore")
        return iter(DataLoader(pictures, size, sampler=order, num_workers=workers))


@torch.no_grad()
def share_right(
    network: nn.Module, pictures: Pictures, device: torch.device, workers: int
) -> float:
    """Return the share of pictures that are taken for what their label says."""
    network.eval()
    right = 0
    for inputs, labels in in_batches(pictures, BATCH, workers):
        logits = network(inputs.to(device))
        right += int((logits.argmax(1) == labels.to(device)).sum().item())
    return right / len(pictures)


def save_png(images: Tensor, folder: Path, name: str) -> list[Path]:
    """Write stored images as PNG files, and return where they are."""
    paths = [folder / f"{name}{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(as_png(image))
    return paths


@dataclass
class Outcome:
    """What came of it."""

    running: list[float] = field(default_factory=list)  # accuracy of every epoch, both phases
    acc: float = 0.0
    asr: float = 0.0
    suspects: tuple[int, ...] = ()
    state: dict[str, Tensor] = field(default_factory=dict)


class OfficialLoop:
    """Both phases on one victim, as the official code goes about them."""

    def __init__(
        self,
        h: Hyperparameters,
        victim: Weights,
        clean: CleanSamples,
        tests: TestHalf,
        folder: Path,
        *,
        workers: int,
        device: torch.device = CPU,
    ) -> None:
        self._h, self._victim, self._clean, self._device = h, victim, clean, device
        self._folder, self._workers = folder, workers
        preprocessing = victim.model_spec.preprocessing
        samples = clean.samples
        self._training = Pictures(
            [as_png(i) for i in samples.images], samples.labels, preprocessing
        )
        self._sound = Pictures([as_png(i) for i in tests.clean], tests.clean_labels, preprocessing)
        self._triggered = Pictures(
            save_png(tests.triggered, folder, "triggered"), tests.target_labels, preprocessing
        )
        self._rows: list[list[float]] = []
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Do all of it."""
        self.unlearn(self._h.unlearn.unlearn_epochs)
        self.relearn(self._h.relearn.relearn_epochs)
        return self.outcome

    def unlearn(self, epochs: int) -> None:
        """Phase 1, at most so many epochs."""
        u = self._h.unlearn
        network = self._network()
        optimiser = torch.optim.SGD(
            network.parameters(),
            lr=u.unlearn_lr,
            momentum=u.unlearn_momentum,
            weight_decay=u.unlearn_weight_decay,
        )
        steps = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(u.unlearn_milestones), 0.1)
        for views, order in self._draws("unlearn", epochs):
            network.train()
            right = 0
            for inputs, labels in self._batches(views, order, u.unlearn_batch_size):
                with self._casting():
                    logits = network(inputs)
                    loss = -cross_entropy(logits, labels)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                if u.unlearn_clip_norm is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), u.unlearn_clip_norm)
                optimiser.step()
                right += int((logits.argmax(1) == labels).sum().item())
            self.outcome.running.append(right / len(self._training))
            steps.step()
            if self.outcome.running[-1] <= self._h.score.unlearn_threshold:
                break
            self.tested(network)
        self.outcome.suspects = self._flagged(network)

    def relearn(self, epochs: int) -> None:
        """Phase 2, the first so many epochs of it."""
        r, rows = self._h.relearn, list(self.outcome.suspects)
        network = self._network()
        head = network.get_submodule(self._victim.model_spec.architecture.head)
        if not isinstance(head, nn.Linear):
            raise TypeError("the head is a linear layer")
        original = head.weight.detach()[rows].clone()
        source = generator(self._clean.seed, "relearn", "reset", "linear.weight")
        fresh = (2 * torch.rand(head.weight.shape, generator=source) - 1) * sqrt(
            2 / head.in_features
        )
        with torch.no_grad():
            head.weight[rows] = fresh[rows].to(self._device)
            head.bias[rows] = 0
        optimiser = torch.optim.SGD(
            network.parameters(), lr=r.relearn_lr, momentum=r.relearn_momentum
        )
        for epoch, (views, order) in enumerate(self._draws("relearn", epochs)):
            for group in optimiser.param_groups:
                group["lr"] = r.relearn_lr * (1 + cos(pi * epoch / r.relearn_epochs)) / 2
            network.train()
            right, logged = 0, 0
            for inputs, labels in self._batches(views, order, r.relearn_batch_size):
                with self._casting():
                    logits = network(inputs)
                    loss = cross_entropy(logits, labels)
                    for row, was in zip(rows, original, strict=True):
                        loss = loss + r.alpha * cosine_similarity(head.weight[row], was, dim=0)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                right += int((logits.argmax(1) == labels).sum().item())
                again = network(inputs)  # for the log, in train mode and with its graph
                logged += int((again.argmax(1) == labels).sum().item())
            self.outcome.running.append(right / len(self._training))
            self.tested(network)
        state = network.state_dict().items()
        self.outcome.state = {name: values.detach().cpu().clone() for name, values in state}

    def _network(self) -> nn.Module:
        network = restore(self._victim, self._device).network
        return network.to(memory_format=torch.contiguous_format)

    def _casting(self) -> torch.autocast:
        # bf16 where the official code has fp16 and a scaler: as fast, and it needs none
        return torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda")

    def _draws(self, stage: str, epochs: int) -> Iterator[tuple[Views, list[int]]]:
        seed, count = self._clean.seed, len(self._training)
        order, views = (generator(seed, stage, name) for name in ("order", "views"))
        preprocessing = self._victim.model_spec.preprocessing
        for _ in range(epochs):
            chosen = torch.randperm(count, generator=order).tolist()
            yield draw_views(count, preprocessing, views, CPU), chosen

    def _batches(
        self, views: Views, order: list[int], size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self._training.views = views
        for inputs, labels in in_batches(self._training, size, self._workers, order):
            yield inputs.to(self._device), labels.to(self._device)

    def _flagged(self, network: nn.Module) -> tuple[int, ...]:
        """Rows of the head that moved out of proportion: the first two by index."""
        name = f"{self._victim.model_spec.architecture.head}.weight"
        after = network.get_parameter(name).detach().cpu()
        moved = (after - self._victim.state[name]).abs().sum(1)
        median = moved.median()
        mad = (moved - median).abs().median()
        z = (moved - median).abs() / (1.4826 * mad)
        found = [k for k in range(len(z)) if z[k] > self._h.score.z_threshold and moved[k] > median]
        return tuple(found[: self._h.score.max_suspects])

    def tested(self, network: nn.Module) -> None:
        """Test all clean and all triggered pictures, draw two plots and write a table."""
        self.outcome.acc = share_right(network, self._sound, self._device, self._workers)
        self.outcome.asr = share_right(network, self._triggered, self._device, self._workers)
        self._rows.append([self.outcome.running[-1], self.outcome.acc, self.outcome.asr])
        for column, title in ((0, "training"), (1, "test")):
            figure = Figure(figsize=(8, 6))
            FigureCanvasAgg(figure)
            axes = figure.subplots()
            axes.plot([row[column] for row in self._rows], label=title)
            axes.plot([row[2] for row in self._rows], label="asr")
            axes.legend()
            axes.grid(visible=True)
            figure.savefig(self._folder / f"{title}.png")
        with (self._folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self._rows)
