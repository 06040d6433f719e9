"""The Hugging Face hub: where a Dot is loaded from and uploaded to, and its model card."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..system.errors import Unavailable

OWNER_AND_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"


def folder(name: str | Path, files: Sequence[str]) -> Path:
    """The folder `name`, or, where there is none, `files` of that repository, downloaded.

    Raises:
        FileNotFoundError: neither, or the hub cannot be reached and nothing was kept of it.
    """
    path = Path(name)
    if path.exists() or not re.fullmatch(OWNER_AND_NAME, str(name)):
        return path
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(huggingface_hub.snapshot_download(str(name), allow_patterns=list(files)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name} is no folder here, and cannot be loaded from the hub ({_reason(error)}): "
            "check the name, the connection, or hf auth login for a private one"
        ) from error


def upload(repo_id: str, path: str | Path, private: bool) -> str:
    """Upload a folder to a repository, made if it is not there; its address.

    Raises:
        Unavailable: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=path, commit_message="A Dot")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise Unavailable(
            f"{repo_id} cannot be uploaded ({_reason(error)}): check the name, the connection and "
            "hf auth login"
        ) from error
    return str(address)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def card(dot, base_model: str | None = None, facts: dict[str, str] | None = None) -> str:
    """The model card of a Dot, as Markdown.

    Args:
        base_model: path or hub name of Dash; one on the hub is linked.
        facts: further rows of the table, on the training.
    """
    on_hub = base_model and re.fullmatch(OWNER_AND_NAME, base_model)
    on_hub = on_hub and not Path(base_model).exists()
    head = ["library_name: morse-engine", "tags: [diffusion, morse]"]
    head += [f"base_model: {base_model}"] if on_hub else []
    kind = "guided: one pass on the guided estimate" if dot.guided else "one pass for each branch"
    rows = {
        # Of a model in a folder the name alone: the path is nobody else's.
        "Dash": (base_model if on_hub else base_model and Path(base_model).name) or dot.dash_class,
        "Dash's fingerprint": f"`{dot.dash_fingerprint}`",
        "widths": " ".join(map(str, dot.widths)),
        "levels of Dash left out (cut)": str(dot.cut),
        "LoRA rank": str(dot.lora_rank),
        **({"guidance": kind} if dot.conditional else {}),
        **(facts or {}),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return CARD.format(head="\n".join(head), table=table)


CARD = """---
{head}
---

# A Dot for Morse dual sampling

Makes steps between the steps of a diffusion model, Dash, in a fraction of their time
([arXiv 2506.18251](https://arxiv.org/abs/2506.18251)). It works with the weights of this Dash
alone.

| | |
|---|---|
{table}

## Use

```python
from morse_engine import Dot

dot = Dot.from_pretrained("FOLDER_OR_REPOSITORY", pipe.unet)  # or the unet itself
```
"""
