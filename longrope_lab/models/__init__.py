"""Live Hugging Face models: loading, config, rotary embedding, forward passes, generation, estimates."""
