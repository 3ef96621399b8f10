"""Live models: loading, their rotary embedding, forward passes, generation, estimates of memory."""
