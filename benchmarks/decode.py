"""Decoding throughput of `generate` and of transformers with the same weights, and the cost of scoring four choices.

    python benchmarks/decode.py --shape toy --dtype float32
    python benchmarks/decode.py --shape 79m --dtype bfloat16
    python benchmarks/decode.py --shape 1b --dtype bfloat16 --device cuda

Both models are Llamas (RMSNorm, no QK-norm). transformers runs with its dynamic and its static cache; the ratio is to
the faster. The first generated tokens are compared as a check of equivalence. A measurement ends with the token ids on
the host, which synchronises a GPU. The bytes per step (weights, and keys and values of all rows) give the memory-bound
limit.
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
from timing import min_seconds

SHAPES = {
    "toy": openlm_spec(layers=4, width=128, heads=4, vocab_size=512),
    "79m": openlm_spec(layers=8, width=512, heads=4, vocab_size=50_432),
    "411m": openlm_spec(layers=24, width=1_024, heads=8, vocab_size=50_432),
    "1b": openlm_spec(layers=24, width=2_048, heads=16, vocab_size=50_432),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def convert_to_transformers(model: VLM, spec: LMSpec, dtype: torch.dtype) -> Any:
    """A LlamaForCausalLM with the weights of `model`, on the same device."""
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
        llama = LlamaForCausalLM(config)
    state_dict, lm = {}, model.lm
    state_dict["model.embed_tokens.weight"], state_dict["model.norm.weight"] = lm.tok_embeddings.weight, lm.norm.weight
    state_dict["lm_head.weight"] = lm.head_weight
    for depth, layer in enumerate(lm.layers):
        attention, feed_forward, prefix = layer.attention, layer.feed_forward, f"model.layers.{depth}."
        q, k, v = attention.in_proj.weight.chunk(3)
        gate, up = feed_forward.w12.weight.chunk(2)
        layer_weights = {
            "input_layernorm": layer.attention_norm.weight,
            "post_attention_layernorm": layer.ffn_norm.weight,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": attention.out_proj.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": feed_forward.w3.weight,
        }
        state_dict |= {f"{prefix}{name}.weight": weight for name, weight in layer_weights.items()}
    llama.load_state_dict(state_dict)
    return llama.to(dtype).eval()


def transformers_generate(llama: Any, prompts: torch.Tensor, *, new: int, cache: str) -> Callable[[], list[list[int]]]:
    """Greedy decoding in transformers of a batch without padding."""
    inputs = {"input_ids": prompts, "attention_mask": torch.ones_like(prompts)}

    def decode() -> list[list[int]]:
        with torch.inference_mode():
            output = llama.generate(
                **inputs,
                max_new_tokens=new,
                do_sample=False,
                cache_implementation=cache,
                disable_compile=True,
                pad_token_id=0,
            )
        return output[:, prompts.shape[1] :].tolist()

    return decode


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of decoding and of scoring choices")
    parser.add_argument("--shape", choices=SHAPES, default="toy")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    spec, dtype = replace(SHAPES[args.shape], norm="rms", qk_norm=False), DTYPES[args.dtype]
    model = VLM(spec)
    model.initialise(0)
    model.to(args.device).requires_grad_(False)  # as in a loaded checkpoint
    model.lm.compute_dtype = dtype
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, spec.vocab_size, (args.batch, args.prompt), generator=generator)
    llama = convert_to_transformers(model, spec, dtype)
    ids, prompts = prompts.tolist(), prompts.to(args.device)
    functions = [
        lambda: generate(model, ids, stop=(), max_new_tokens=args.new),
        transformers_generate(llama, prompts, new=args.new, cache="dynamic"),
        transformers_generate(llama, prompts, new=args.new, cache="static"),
    ]
    num_equal = sum(a[0] == b[0] for a, b in zip(functions[0](), functions[1](), strict=True))
    seconds, *baselines = min_seconds(functions, args.repeats)
    num_tokens = args.batch * args.new
    device_name = f"{args.threads} thread(s)" if args.device == "cpu" else args.device
    print(f"{args.shape}, {args.dtype}, {spec.layers} x {spec.width}, batch {args.batch}, {device_name}")
    print(f"equal first tokens           {num_equal} of {args.batch}")
    print(f"firstsight                   {num_tokens / seconds:10,.0f} tokens/s")
    for name, baseline_seconds in zip(("dynamic", "static"), baselines, strict=True):
        print(f"transformers, {name:8}       {num_tokens / baseline_seconds:10,.0f} tokens/s")
    print(f"firstsight / transformers    {min(baselines) / seconds:10.2f}")
    print(f"time per step                {seconds / args.new * 1e3:10.2f} ms, prefill included")
    step_bytes = bytes_per_step(spec, dtype, rows=args.batch, context=args.prompt + args.new // 2)
    print(f"memory read per step         {step_bytes / 1e9:10.2f} GB")
    measure_choices(model, spec, repeats=args.repeats)


def bytes_per_step(spec: LMSpec, dtype: torch.dtype, *, rows: int, context: int) -> int:
    """Bytes read by a step: all weights except embeddings, and keys and values of `context` tokens per row."""
    weights = spec.parameters() - spec.vocab_size * spec.width
    return dtype.itemsize * (weights + 2 * spec.layers * rows * context * spec.kv_heads * spec.head_dim)


def measure_choices(model: VLM, spec: LMSpec, *, repeats: int, context: int = 256, choice: int = 8) -> None:
    """Time to score four choices after a context, relative to one choice."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(spec.vocab_size, (context,), generator=generator).tolist()
    choices = torch.randint(spec.vocab_size, (4, choice), generator=generator).tolist()
    one_seconds, four_seconds = min_seconds(
        [
            lambda: continuation_likelihoods(model, [prompt], choices[:1]),
            lambda: continuation_likelihoods(model, [prompt] * 4, choices),
        ],
        repeats,
    )
    print(f"1 choice, {choice} after {context} tokens {one_seconds * 1e3:9.1f} ms")
    print(f"4 choices                    {four_seconds * 1e3:10.1f} ms")
    print(f"4 choices / 1 choice         {four_seconds / one_seconds:10.2f}")


if __name__ == "__main__":
    main()
