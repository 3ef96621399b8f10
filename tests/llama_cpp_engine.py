"""llama.cpp's server in this process, out of the package xllamacpp; and files in 8 bits."""

from __future__ import annotations

import time

import gguf
import numpy as np
import xllamacpp


def log_probs(path, prompts, context):
    """Of all tokens after the last of each prompt, (P, V).

    Keys and values are kept in float32, and attention is computed in it: what a server does unasked
    rounds to float16, which costs up to 0.01.
    """
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = context, 1, False, -1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = 0
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    fields = gguf.GGUFReader(path).fields
    (vocabulary,) = (int(f.contents()) for n, f in fields.items() if n.endswith(".vocab_size"))
    return np.array([_after(server, prompt, vocabulary) for prompt in prompts])


def _after(server, prompt, vocabulary):
    asked = {"prompt": list(prompt), "n_predict": 1, "n_probs": vocabulary, "cache_prompt": False}
    until = time.monotonic() + 60
    while True:  # a busy machine may still be loading the model
        answer = server.handle_completions(asked | {"temperature": 0})
        loading = answer.get("error", {}).get("code") == 503
        if not loading or time.monotonic() > until:
            break
        time.sleep(0.2)
    assert "choices" in answer, answer
    (first,) = answer["choices"][0]["logprobs"]["content"]
    found = {token["id"]: token["logprob"] for token in first["top_logprobs"]}
    assert len(found) == vocabulary
    return [found[token] for token in range(vocabulary)]


def quantized(path, out):
    """A copy of a file whose matrices are in 8 bits, as llama-quantize makes them."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind, *of = field.types
            writer.add_key_value(name, field.contents(), kind, *of)
    for tensor in reader.tensors:
        data, kind = tensor.data, gguf.GGMLQuantizationType.Q8_0
        if data.ndim == 2:
            writer.add_tensor(tensor.name, gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
