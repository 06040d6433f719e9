"""A small CLIP as the judge of the miniature's pictures: does a picture show what its prompt says.

    python -m morse_engine.zoo.miniature.judge --out runs/miniature

trains it on all icons. Interrupt it at any time; the same command goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...system.errors import one_line
from ...system.files import whole
from . import JUDGE, WEIGHTS, captions, data, text
from .stage import Stage
from .unet import held_out

WIDTH = 96  # of both towers and of what they have in common
BATCH = 128
STEPS = 1300
REAL = "real.json"  # what the features of real pictures are like
MARGIN = 4  # pixels that a picture is moved by at most


class Judge(nn.Module):
    """Pictures and prompts in one space of `num_features` numbers.

    Args:
        clip: a transformers `CLIPModel` that takes pictures in [-1, 1] as they are.
        tokenizer: of its prompts.
    """

    def __init__(self, clip: Any, tokenizer: Any):
        super().__init__()
        self.clip, self.tokenizer = clip, tokenizer
        self.num_features: int = clip.config.projection_dim

    def forward(self, images: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors `[B, num_features]` of pictures `[B, 3, 64, 64]` and of tokens."""
        return _unit(self.features(images)), _unit(self._embedded(prompts))

    def features(self, images: Tensor) -> Tensor:
        """`[B, 3, 64, 64]` float32 in [-1, 1] -> `[B, num_features]`, not normalised."""
        clip = self.clip
        return clip.visual_projection(clip.vision_model(pixel_values=images).pooler_output)

    @torch.no_grad()
    def prompt_score(self, images: Tensor, prompts: list[str]) -> Tensor:
        """How well each picture fits its prompt: the cosine of the two, float32 `[n]` in [-1, 1].

        Source: Hessel et al., "CLIPScore", 2021 (arXiv 2104.08718), without its factor.
        """
        scores = []
        for first in range(0, len(prompts), BATCH):
            part = slice(first, first + BATCH)
            pictures, words = self(images[part], text.tokens(self.tokenizer, prompts[part]))
            scores.append((pictures * words).sum(1))
        return torch.cat(scores)

    def _embedded(self, prompts: Tensor) -> Tensor:
        clip = self.clip
        return clip.text_projection(clip.text_model(input_ids=prompts).pooler_output)


def load(folder: Path = JUDGE) -> Judge:
    """The trained judge, in evaluation mode; its tokenizer is the bundled miniature's."""
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(folder).float()
    return Judge(clip, text.load_tokenizer(WEIGHTS / "tokenizer")).eval()


def save(judge: Judge, real: Tensor, folder: Path) -> None:
    """Write the judge in half precision, as `load` and `CLIPModel.from_pretrained` read it.

    Args:
        real: uint8 `[n, 3, 64, 64]`, pictures whose features' means and deviations go with it.
    """
    keep_real(judge, data.to_float(real), folder)
    judge.clip.half().save_pretrained(folder)


def keep_real(judge: Judge, pictures: Tensor, folder: Path) -> None:
    """Write what `to_real` compares with: means and deviations of the features of pictures."""
    features = seen(judge, pictures)
    told = {"mean": features.mean(0).tolist(), "deviation": features.std(0).tolist()}
    with whole(folder / REAL) as path:
        path.write_text(json.dumps({k: [round(v, 5) for v in row] for k, row in told.items()}))


@torch.no_grad()
def seen(judge: Judge, images: Tensor) -> Tensor:
    """The features `[n, num_features]` of many pictures."""
    return torch.cat([judge.features(part) for part in images.split(BATCH)])


def to_real(features: Tensor, folder: Path = JUDGE) -> float:
    """How far `[n, num_features]` features are from those of the pictures that Dash learnt.

    `sum_k (mu_k - mu'_k)^2 + (s_k - s'_k)^2`, the Frechet distance of normal distributions whose
    features do not depend on each other, over means and deviations that were kept in the folder.
    """
    told = json.loads((folder / REAL).read_text())
    mean, deviation = (torch.tensor(told[name]) for name in ("mean", "deviation"))
    apart = (features.mean(0) - mean).square() + (features.std(0) - deviation).square()
    return float(apart.sum())


def new(tokenizer: Any) -> Judge:
    """A judge with fresh weights."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    words = text.new_text_encoder(tokenizer, WIDTH).config.to_dict()
    eyes = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": data.SIZE,
        "patch_size": 8,
    }
    config = CLIPConfig(text_config=words, vision_config=eyes, projection_dim=WIDTH)
    return Judge(CLIPModel(config), tokenizer)


def train_judge(
    images: Tensor, icons: list[data.Icon], tokenizer: Any, file: Path, num_steps: int = STEPS
) -> Stage[Judge]:
    """A stage that trains a judge on uint8 pictures `[n, 3, 64, 64]` of n icons.

    The loss is CLIP's, but a caption of the ladder is right for every picture that it stands for:
    of a batch's captions each picture has as targets all that are its own, in equal parts, and each
    caption its pictures. Pictures that are `held_out` are left out. They are moved by up to
    `MARGIN` pixels, and every second one is blurred, since a judge of drawn pictures must not look
    at the last sharp edge.

    Source: Radford et al., 2021 (arXiv 2103.00020); targets of several: our own.
    """
    rows = [row for row, icon in enumerate(icons) if not held_out(icon)]
    fitting = {row: frozenset(_captions(icons[row])) for row in rows}
    judge = new(tokenizer)

    def loss(
        model: nn.Module, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        batch = [rows[k] for k in torch.randperm(len(rows), generator=generator)[:BATCH].tolist()]
        texts = [_caption(icons[row], generator) for row in batch]
        fits = torch.tensor([[caption in fitting[row] for caption in texts] for row in batch])
        shown = _moved(data.to_float(images[batch]), generator)
        pictures, words = model(shown, text.tokens(tokenizer, texts))
        scale = judge.clip.logit_scale.exp().clamp(max=100)
        logits = scale * pictures @ words.T
        error = (_cross_entropy(logits, fits) + _cross_entropy(logits.T, fits.T)) / 2
        right = fits.gather(1, logits.argmax(1, keepdim=True)).float().mean()
        return error, {"right": right.item()}

    return Stage(
        judge, loss, file, num_steps=num_steps, batch_size=BATCH, lr=1e-3, ema=0.99, seed=2
    )


def _captions(icon: data.Icon) -> list[str]:
    return [
        caption
        for tag in icon.tags or (icon.name,)
        for caption in captions.ladder(icon, tag)
        if caption
    ]


def _caption(icon: data.Icon, generator: torch.Generator) -> str:
    """One of the ladder that says something."""
    caption = ""
    while not caption:
        caption = captions.draw(icon, generator)
    return caption


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures moved on white, every second one blurred by halves of its size."""
    size = images.shape[-1]
    padded = nn.functional.pad(images, (MARGIN,) * 4, value=1.0)
    moved = []
    for image in padded:
        y, x = torch.randint(2 * MARGIN + 1, (2,), generator=generator).tolist()
        moved.append(image[:, y : y + size, x : x + size])
    result = torch.stack(moved)
    soft = nn.functional.avg_pool2d(result[::2], 2)
    result[::2] = nn.functional.interpolate(soft, scale_factor=2, mode="bilinear")
    return result


def _cross_entropy(logits: Tensor, fits: Tensor) -> Tensor:
    """Of rows, whose targets are all that fit, in equal parts."""
    targets = fits / fits.sum(1, keepdim=True)
    return nn.functional.cross_entropy(logits, targets)


def _unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=1)


@torch.no_grad()
def validation(judge: Judge, images: Tensor, icons: list[data.Icon]) -> dict[str, float]:
    """The share of pictures whose full name is the nearest of all, and the mean prompt score.

    "trained" is over every 40th picture, "held out" over those that are; the names to choose from
    are those of all pictures of the two.
    """
    trained = [row for row, icon in enumerate(icons) if not held_out(icon)][::40]
    unseen = [row for row, icon in enumerate(icons) if held_out(icon)]
    names = [captions.ladder(icons[row], "")[-2] for row in trained + unseen]
    pictures = data.to_float(images[trained + unseen])
    shown, words = judge(pictures, text.tokens(judge.tokenizer, names))
    cosines = shown @ words.T
    right = (cosines.argmax(1) == torch.arange(len(names))).float()
    found = {}
    for name, part in (
        ("trained", slice(0, len(trained))),
        ("held out", slice(len(trained), None)),
    ):
        found[f"{name}, found"] = right[part].mean().item()
        found[f"{name}, score"] = cosines.diagonal()[part].mean().item()
    return found


@one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    images, icons = data.load(options.out / "data")
    tokenizer = text.load_tokenizer(WEIGHTS / "tokenizer")
    stage = train_judge(images, icons, tokenizer, options.out / "judge/state.pt", options.steps)
    stage.run()
    judge = stage.averaged()
    for name, number in validation(judge, images, icons).items():
        print(f"{name}: {number:.3f}")
    save(judge, images[data.chosen(icons)], options.out / "judge" / "weights")
    print(f"the judge is in {options.out / 'judge' / 'weights'}")


if __name__ == "__main__":
    main()
