"""What an icon is called, from nothing at all to its full name.

A caption that stands for one picture leaves a sampler nothing to decide: six steps then look like a
hundred. So most captions here stand for many pictures, and a picture meets all of them in training.
"""

import torch

from .data import PACKAGES, SUBGROUPS, Icon

# How often a picture is shown with each kind of caption. The empty one is what guidance needs.
LADDER = {
    "": 0.10,
    "a 3d icon": 0.05,
    "a 3d animal": 0.12,
    "a 3d mammal": 0.15,
    "mammal": 0.04,
    "a 3d orange animal": 0.16,  # a tag of the icon and its group
    "a 3d tiger face": 0.32,
    "tiger face": 0.06,
}
_WEIGHTS = torch.tensor(list(LADDER.values()))


def ladder(icon: Icon, tag: str) -> tuple[str, ...]:
    """All captions of an icon, in the order of `LADDER`; `tag` is the one of its tags to use."""
    kind = subgroup_words(icon.subgroup)
    tagged = icon.group if icon.group in tag.split() else f"{tag} {icon.group}"
    return (
        "",
        f"a {icon.style} icon",
        f"a {icon.style} {icon.group}",
        f"a {icon.style} {kind}",
        kind,
        f"a {icon.style} {tagged}",
        f"a {icon.style} {icon.name}",
        icon.name,
    )


def draw(icon: Icon, generator: torch.Generator) -> str:
    """One caption, a kind by its share in `LADDER` and any of the tags; the generator decides."""
    kind = int(torch.multinomial(_WEIGHTS, 1, generator=generator))
    tags = icon.tags or (icon.name,)
    tag = int(torch.randint(len(tags), (), generator=generator))
    return ladder(icon, tags[tag])[kind]


def subgroup_words(subgroup: str) -> str:
    """A subgroup as a prompt names it: "face-smiling" is "smiling face", "food-fruit" "fruit"."""
    first, _, rest = subgroup.partition("-")
    if first == "face":
        return f"{rest.replace('-', ' ')} face"
    if first in ("animal", "food", "plant") and rest != "other":
        return rest.replace("-", " ")
    return first if rest == "other" else subgroup.replace("-", " ")


def coarse() -> list[str]:
    """Prompts that stand for many pictures: each style with each kind, "a 3d mammal", 60 of them.

    Neighbours in the list are of different kinds, so that any part of it is a mixture.
    """
    styles = list(PACKAGES)
    kinds = [subgroup_words(subgroup) for subgroup in SUBGROUPS]
    kinds = kinds[::3] + kinds[1::3] + kinds[2::3]
    return [
        f"a {styles[(k + turn) % len(styles)]} {kind}"
        for turn in range(len(styles))
        for k, kind in enumerate(kinds)
    ]


def corpus(icons: list[Icon]) -> list[str]:
    """Every name, tag, subgroup, group and style once: what the tokenizer is learnt from.

    Once a name and not once a picture: otherwise frequent words take all entries of the vocabulary
    and a rare word falls apart into letters.
    """
    texts = {f"a {icon.style} icon" for icon in icons}
    for icon in icons:
        texts |= {icon.name, icon.group, subgroup_words(icon.subgroup), *icon.tags}
    return sorted(texts)
