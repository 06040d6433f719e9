"""The words of the miniature: a tokenizer learnt from all names, and a small CLIP text encoder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...system.errors import Refused

ENTRIES = 3072  # 1.4 tokens a word; 2,048 would give two
LENGTH = 24  # tokens of a prompt with its start and end
START, END = "<|startoftext|>", "<|endoftext|>"


def learn_tokenizer(texts: list[str], entries: int = ENTRIES) -> Any:
    """A `CLIPTokenizer` with a byte-pair vocabulary that is learnt from `texts` alone.

    Raises:
        Refused: `entries` is below 514: bytes, bytes at the end of a word, and two marks.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = letters + [f"{letter}</w>" for letter in letters]
    if entries < len(alphabet) + 2:
        raise Refused(f"entries={entries}: a vocabulary has at least {len(alphabet) + 2}")
    clip = CLIPTokenizer().backend_tokenizer  # for its rules of what a word is
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=entries, end_of_word_suffix="</w>", show_progress=False, min_frequency=2
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in _merges(learner)]
    merges = merges[: entries - len(alphabet) - 2]
    vocabulary = alphabet + ["".join(pair) for pair in merges] + [START, END]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=LENGTH,
    )


def new_text_encoder(tokenizer: Any, width: int = 96, layers: int = 2, seed: int = 0) -> Any:
    """`CLIPTextModel` with fresh weights for the vocabulary of `tokenizer`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokens(tokenizer: Any, texts: list[str]) -> Tensor:
    """The tokens `[n, LENGTH]` of n prompts, int64, padded and cut as the pipeline does it."""
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    ).input_ids


def _merges(learner: Any) -> list:
    import json

    pairs = json.loads(learner.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer that `save_pretrained` wrote into a folder."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)
