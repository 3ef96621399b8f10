"""Live models: loading, their rotary embedding, forward passes, generation, estimates of memory."""

from ..common.renames import former_module

# What `models.py` of the release before held.
__getattr__ = former_module(
    __name__,
    load_model="loading",
    too_large="loading",
    quiet_transformers="loading",
    fetch_smollm2="smollm2",
    smollm2_path="smollm2",
)
