"""Two icons as the miniature's data describes them."""

from morse_engine.zoo.miniature.data import Icon

ICONS = [
    Icon("3d", "tiger face", ("orange",), "animal-mammal", "animal"),
    Icon("noto", "red apple", ("fruit",), "food-fruit", "food"),
]
