"""How good images are: their distance to real images, and to those of all steps."""

from typing import Any

import torch
from torch import Tensor, nn

from ..system import checks
from ..system.errors import Refused, Unavailable
from ..system.images import eight_bits
from .paired import features_of


class _Features(nn.Module):
    """An extractor as torchmetrics wants it, with float64 features so that nothing is rounded."""

    def __init__(self, extractor: Any):
        super().__init__()
        self.num_features: int = extractor.num_features
        # In a tuple, not a submodule: the metric must not move or cast a model that it only uses.
        self.extractor = (extractor,)

    def forward(self, x: Tensor) -> Tensor:
        (extractor,) = self.extractor
        features = extractor.features(x) if hasattr(extractor, "features") else extractor(x)
        if features.shape != (len(x), self.num_features):
            raise Refused(
                f"{type(extractor).__name__} gave {tuple(features.shape)} for {len(x)} images: an "
                f"extractor gives [B, num_features] = {(len(x), self.num_features)}"
            )
        return features.double()


class Frechet:
    """The Frechet distance between generated images and one set of real images.

    `|| mu - mu_r ||^2 + tr(S + S_r - 2 (S S_r)^(1/2))` over the features of the images; lower is
    better. The real statistics are computed once, here. Statistics are float64. Images are clamped
    to [-1, 1] first: they count as they would be shown. The distance of a finite set is biased
    upwards: compare only distances of equally many images.

    Args:
        extractor: a module with `num_features` whose `features(x)` (or, without that method, whose
            `forward(x)`) maps images to `[B, num_features]`; it is put into `eval()`. One that has
            both classifies: its `forward(x)` gives `[B, classes]`. Or
            "inception" for the usual FID: Inception v3, 2048 features, images rounded to 8 bits.
        real_images: `[n, C, H, W]` float32 in [-1, 1].
        batch_size: images per call of the extractor.

    Raises:
        Refused: fewer images than features + 1, or an extractor that is neither.
        Unavailable: "inception" without the package torch-fidelity.

    Source: Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
    """

    unit = "Frechet distance"

    def __init__(self, extractor: nn.Module | str, real_images: Tensor, *, batch_size: int = 250):
        checks.tensor("real_images", real_images, "[n, C, H, W]")
        batch_size = checks.integer("batch_size", batch_size, 1, 2**31)
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.inception = isinstance(extractor, str) and extractor == "inception"
        self.extractor = extractor
        if self.inception:
            try:
                metric = FrechetInceptionDistance(feature=2048, reset_real_features=False)
            except ModuleNotFoundError as error:
                raise Unavailable(
                    'extractor="inception" needs the weights of torch-fidelity: '
                    "pip install torch-fidelity"
                ) from error
            self.num_features, device = 2048, real_images.device
        elif isinstance(extractor, nn.Module) and hasattr(extractor, "num_features"):
            features = _Features(extractor.eval())
            metric = FrechetInceptionDistance(feature=features, reset_real_features=False)
            self.num_features = features.num_features
            device = next((p.device for p in extractor.parameters()), real_images.device)
        else:
            raise Refused(
                f"extractor={checks.shown(extractor)}: give a module with num_features, or "
                "'inception'"
            )
        self.metric, self.device, self.batch_size = metric.to(device), device, batch_size
        self._update(real_images, real=True)

    @torch.no_grad()
    def _update(self, images: Tensor, *, real: bool) -> None:
        if len(images) <= self.num_features:
            raise Refused(
                f"{len(images)} images for {self.num_features} features: the covariance needs at "
                f"least {self.num_features + 1} images"
            )
        for x in images.split(self.batch_size):
            if self.inception:
                x = eight_bits(x).expand(-1, 3, -1, -1).to(self.device)
            else:
                x = x.to(self.device).clamp(-1, 1)
            self.metric.update(x, real=real)

    def distance(self, images: Tensor) -> float:
        """The distance of `[n, C, H, W]` float32 images (clamped to [-1, 1]) to the real ones.

        Raises:
            Refused: fewer images than features + 1.
        """
        checks.tensor("images", images, "[n, C, H, W]")
        self.metric.reset()  # forgets the images of the last call, keeps the real statistics
        self._update(images, real=False)
        return self.metric.compute().item()

    def features(self, images: Tensor) -> Tensor | None:
        """The features of `[n, C, H, W]` images, `[n, num_features]`; None of Inception."""
        return features_of(self.extractor, images) if not isinstance(self.extractor, str) else None

    @torch.no_grad()
    def classes(self, images: Tensor) -> Tensor | None:
        """What the extractor takes `[n, C, H, W]` images for, `[n]`; None if it does not classify.

        How often two sets from the same seeds agree says how alike their images are.
        """
        if isinstance(self.extractor, str) or not hasattr(self.extractor, "features"):
            return None
        if hasattr(self.extractor, "prompt_score"):  # a judge of prompts has no classes
            return None
        parts = images.clamp(-1, 1).split(self.batch_size)
        return torch.cat([self.extractor(x.to(self.device)).argmax(1).cpu() for x in parts])


def rmse_to_full(images: Tensor, full_images: Tensor) -> float:
    """How far images are from the full-step result from the same noise, in units of the data range.

    `sqrt(mean((images - full_images)^2))`, over all images `[n, C, H, W]` and pixels.

    Raises:
        Refused: the shapes differ.
    """
    for name, given in ("images", images), ("full_images", full_images):
        checks.tensor(name, given, "[n, C, H, W]")
    if images.shape != full_images.shape:
        raise Refused(
            f"images {tuple(images.shape)} and full_images {tuple(full_images.shape)} differ in "
            "shape: sample both from the same seeds"
        )
    return (images.double() - full_images.double()).square().mean().sqrt().item()
