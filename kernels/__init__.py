"""Fused kernels in Triton, registered as `torch.ops.morse_engine.*`.

Each op is one file: its reference in plain PyTorch (`*_ref`), its kernel, and its launcher. On CUDA
tensors an op launches its kernel, on others it runs its reference. Importing this package needs no
Triton and no GPU.
"""

# With a checkout in sys.path, as `python -m` has it, this is found as `kernels` too: the name of a
# Hugging Face package, which transformers imports to ask for its version. Nothing may happen then:
# ops that are registered twice are destroyed.
if __name__ == "morse_engine.kernels":
    from .add_layer_norm import add_layer_norm as add_layer_norm_op
    from .add_layer_norm import add_layer_norm_ref
    from .checks import available, interpreter, is_channels_last, or_reference, references
    from .dash_update import dash_update, dash_update_ref
    from .geglu import geglu as geglu_op
    from .geglu import geglu_ref
    from .group_norm_silu import group_norm_silu as group_norm_silu_op
    from .group_norm_silu import group_norm_silu_ref
    from .philox_normal import philox_normal, philox_normal_ref
    from .residual_up_update import residual_up_ref, residual_up_update, residual_up_update_ref
    from .time_silu import time_silu as time_silu_op
    from .time_silu import time_silu_ref
    from .trajectory_down import trajectory_down as trajectory_down_op
    from .trajectory_down import trajectory_down_ref

    # What a Dot calls in its model, several times a step.
    add_layer_norm = or_reference(add_layer_norm_op, add_layer_norm_ref)
    geglu = or_reference(geglu_op, geglu_ref)
    group_norm_silu = or_reference(group_norm_silu_op, group_norm_silu_ref)
    time_silu = or_reference(time_silu_op, time_silu_ref)
    trajectory_down = or_reference(trajectory_down_op, trajectory_down_ref)

__all__ = [
    "add_layer_norm",
    "add_layer_norm_ref",
    "available",
    "dash_update",
    "dash_update_ref",
    "geglu",
    "geglu_ref",
    "group_norm_silu",
    "group_norm_silu_ref",
    "interpreter",
    "is_channels_last",
    "philox_normal",
    "philox_normal_ref",
    "references",
    "residual_up_ref",
    "residual_up_update",
    "residual_up_update_ref",
    "time_silu",
    "time_silu_ref",
    "trajectory_down",
    "trajectory_down_ref",
]
