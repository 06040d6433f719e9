"""A small digit classifier: the eyes with which generated digits are compared with real ones."""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from ..system.errors import Refused
from ..system.files import whole, write_tensors


class DigitClassifier(nn.Module):
    """A convolutional classifier of 32 x 32 digits whose 64 penultimate numbers describe an image.

    Four blocks conv - BatchNorm - SiLU (16, 32, 48, 64 channels), then the mean over the picture:
    in `eval()` a smooth function of the pixels, and one that sees contrast (BatchNorm is affine
    there, a normalisation per image would hide it). 47 thousand parameters.
    """

    num_features = 64  # the name under which torchmetrics looks for the length of a feature

    def __init__(self) -> None:
        super().__init__()
        channels, layers = (1, 16, 32, 48, self.num_features), []
        for i, (c_in, c_out) in enumerate(pairwise(channels)):
            stride = 1 if i == 0 else 2
            layers += [
                nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(self.num_features, 10)

    def features(self, x: Tensor) -> Tensor:
        """The description of an image: `[B, 1, 32, 32]` float32 in [-1, 1] -> `[B, 64]`."""
        return self.body(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the ten digits: `[B, 1, 32, 32]` float32 in [-1, 1] -> `[B, 10]`."""
        return self.head(self.features(x))


def augmented(x: Tensor, generator: torch.Generator, *, shift: int = 2) -> Tensor:
    """The images moved by up to `shift` pixels and with noise of sigma 0 .. 0.1: `[B, C, H, W]`."""
    b, _, h, w = x.shape
    padded = nn.functional.pad(x, (shift,) * 4, value=-1.0)
    dy, dx = torch.randint(2 * shift + 1, (2, b, 1), generator=generator)
    rows, columns = dy + torch.arange(h), dx + torch.arange(w)
    index = torch.arange(b)[:, None, None]
    moved = padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    sigma = 0.1 * torch.rand(b, 1, 1, 1, generator=generator)
    return moved + sigma * torch.randn(x.shape, generator=generator)


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    num_steps: int = 1000,
    batch_size: int = 100,
    lr: float = 3e-3,
) -> DigitClassifier:
    """Train a `DigitClassifier` by cross-entropy on lightly augmented images, on the CPU.

    Args:
        images: `[n, 1, 32, 32]` float32 in [-1, 1].
        labels: `[n]` int64, 0 .. 9.
        seed: fixes first weights, batches and augmentation; the same seed on the same machine and
            number of threads gives the same weights. The global random state is left as it was.
        num_steps: optimizer steps (AdamW, one-cycle learning rate that peaks at `lr`).

    Returns:
        the classifier in `eval()`.

    Raises:
        Refused: images and labels differ in number, or num_steps is below 1.
    """
    from rich.progress import track

    if len(images) != len(labels):
        raise Refused(f"{len(images)} images but {len(labels)} labels: one label per image")
    if num_steps < 1:
        raise Refused(f"num_steps={num_steps}: training needs at least one step")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitClassifier()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=num_steps)
    model.train()
    for _ in track(range(num_steps), "classifier"):
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        logits = model(augmented(images[rows], generator))
        loss = nn.functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The part of the images that the classifier names correctly, 0 .. 1."""
    return (model(images).argmax(dim=1) == labels).double().mean().item()


def save_classifier(model: DigitClassifier, path: str | Path) -> None:
    """Write the weights as a safetensors file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        write_tensors(partial, model.state_dict())


def load_classifier(path: str | Path) -> DigitClassifier:
    """Read a classifier that `save_classifier` wrote; it comes back in `eval()`.

    Raises:
        FileNotFoundError: there is no such file.
        Refused: the file is damaged, or holds another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such weights; write them with save_classifier")
    model = DigitClassifier()
    try:
        model.load_state_dict(load_file(str(path)))
    except (SafetensorError, RuntimeError) as error:  # torch's for other names and shapes
        reason = str(error).splitlines()[0]
        raise Refused(f"{path} is not a classifier of digits ({reason}): copy it again") from error
    return model.eval()
