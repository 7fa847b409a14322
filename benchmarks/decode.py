"""Tokens a second of `generate` against transformers' on the same weights, and what choices cost beside one.

    python benchmarks/decode.py --shape toy --dtype float32
    python benchmarks/decode.py --shape 79m --dtype bfloat16
    python benchmarks/decode.py --shape 1b --dtype bfloat16 --device cuda

Both are Llamas (RMSNorm, no QK-norm), so that transformers can say the same; transformers shows its faster cache.
The first tokens of both answers are compared, so that the race is between equals. Each piece of work ends with its
answer on the host, so that a GPU is done when the clock is read. A step's bytes, those of the weights and of the keys
and values of all rows, say how fast memory would allow it to be.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from firstsight.model.generate import continuation_likelihoods, generate
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LMSpec, openlm_spec
from timing import fastest

SHAPES = {
    "toy": openlm_spec(layers=4, width=128, heads=4, vocab_size=512),
    "79m": openlm_spec(layers=8, width=512, heads=4, vocab_size=50_432),
    "411m": openlm_spec(layers=24, width=1_024, heads=8, vocab_size=50_432),
    "1b": openlm_spec(layers=24, width=2_048, heads=16, vocab_size=50_432),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def peer(model: VLM, spec: LMSpec, dtype: torch.dtype) -> Any:
    """The same weights, on the same device, as a LlamaForCausalLM of transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        rms_norm_eps=spec.eps,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        max_position_embeddings=4_096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with model.lm.head_weight.device:
        built = LlamaForCausalLM(config)
    ours, lm = {}, model.lm
    ours["model.embed_tokens.weight"], ours["model.norm.weight"] = lm.tok_embeddings.weight, lm.norm.weight
    ours["lm_head.weight"] = lm.head_weight
    for depth, layer in enumerate(lm.layers):
        w, place = layer.weights(), f"model.layers.{depth}."
        q, k, v = w.in_proj.chunk(3)
        gate, up = w.w12.chunk(2)
        named = {
            "input_layernorm": w.attention_norm,
            "post_attention_layernorm": w.ffn_norm,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": w.out_proj,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": w.w3,
        }
        ours |= {f"{place}{name}.weight": weight for name, weight in named.items()}
    built.load_state_dict(ours)
    return built.to(dtype).eval()


def answering(llama: Any, prompts: torch.Tensor, *, new: int, cache: str) -> Callable[[], list[list[int]]]:
    """transformers' greedy answers with its own settings for a batch without padding."""
    asked = {"input_ids": prompts, "attention_mask": torch.ones_like(prompts)}

    def work() -> list[list[int]]:
        with torch.inference_mode():
            said = llama.generate(
                **asked,
                max_new_tokens=new,
                do_sample=False,
                cache_implementation=cache,
                disable_compile=True,
                pad_token_id=0,
            )
        return said[:, prompts.shape[1] :].tolist()

    return work


def main() -> None:
    ask = argparse.ArgumentParser(description="Speed of decoding and of scoring choices")
    ask.add_argument("--shape", choices=SHAPES, default="toy")
    ask.add_argument("--dtype", choices=DTYPES, default="float32")
    ask.add_argument("--batch", type=int, default=16)
    ask.add_argument("--prompt", type=int, default=64)
    ask.add_argument("--new", type=int, default=64)
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--repeats", type=int, default=5)
    asked = ask.parse_args()
    torch.set_num_threads(asked.threads)
    spec, dtype = replace(SHAPES[asked.shape], norm="rms", qk_norm=False), DTYPES[asked.dtype]
    model = VLM(spec)
    model.initialise(0)
    model.to(asked.device).requires_grad_(False)  # as a loaded checkpoint is
    model.lm.compute_dtype = dtype
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, spec.vocab_size, (asked.batch, asked.prompt), generator=draw)
    llama = peer(model, spec, dtype)
    ids, prompts = prompts.tolist(), prompts.to(asked.device)
    works = [
        lambda: generate(model, ids, stop=(), max_new_tokens=asked.new),
        answering(llama, prompts, new=asked.new, cache="dynamic"),
        answering(llama, prompts, new=asked.new, cache="static"),
    ]
    ours, theirs = works[0](), works[1]()
    same = sum(a[0] == b[0] for a, b in zip(ours, theirs, strict=True))
    seconds, *peers = fastest(works, asked.repeats)
    rate = asked.batch * asked.new
    where = f"{asked.threads} thread(s)" if asked.device == "cpu" else asked.device
    print(f"{asked.shape}, {asked.dtype}, {spec.layers} x {spec.width}, batch {asked.batch}, {where}")
    print(f"first tokens that agree      {same} of {asked.batch}")
    print(f"ours                         {rate / seconds:10,.0f} tokens/s")
    for name, took in zip(("dynamic", "static"), peers, strict=True):
        print(f"transformers, {name:8}       {rate / took:10,.0f} tokens/s")
    print(f"ours / transformers          {min(peers) / seconds:10.2f}")
    print(f"ours, a step                 {seconds / asked.new * 1e3:10.2f} ms, its prompt shared out")
    looked = moved(spec, dtype, rows=asked.batch, read=asked.prompt + asked.new // 2)
    print(f"bytes a step                 {looked / 1e9:10.2f} GB")
    scoring(model, spec, repeats=asked.repeats)


def moved(spec: LMSpec, dtype: torch.dtype, *, rows: int, read: int) -> int:
    """Bytes of what every step looks at: all weights but the embeddings, keys and values of `read` tokens a row."""
    weights = spec.parameters() - spec.vocab_size * spec.width
    return dtype.itemsize * (weights + 2 * spec.layers * rows * read * spec.kv_heads * spec.head_dim)


def scoring(model: VLM, spec: LMSpec, *, repeats: int, context: int = 256, choice: int = 8) -> None:
    """What four choices after one context cost, in costs of one."""
    draw = torch.Generator().manual_seed(1)
    read = torch.randint(spec.vocab_size, (context,), generator=draw).tolist()
    more = torch.randint(spec.vocab_size, (4, choice), generator=draw).tolist()
    one, four = fastest(
        [
            lambda: continuation_likelihoods(model, [read], more[:1]),
            lambda: continuation_likelihoods(model, [read] * 4, more),
        ],
        repeats,
    )
    print(f"one choice of {choice} after {context}     {one * 1e3:10.1f} ms")
    print(f"four choices                 {four * 1e3:10.1f} ms")
    print(f"four / one                   {four / one:10.2f}")


if __name__ == "__main__":
    main()
