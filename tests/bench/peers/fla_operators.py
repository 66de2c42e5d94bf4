#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A peer of 'savanna bench operators --device cuda': flash-linear-attention's layers, and LION's Mamba block.

    mkdir fla
    printf '#!/bin/sh\\nexec python3 .../tests/bench/peers/fla_operators.py "$@"\\n' > fla/run
    chmod +x fla/run
    PYTHONPATH=.../flash-linear-attention savanna bench operators --device cuda --precision tf32 --peer fla

Compared is a whole block, on both sides y = x + mixer(LayerNorm(x)), the mixer being projections, short
convolutions where there are, recurrence, norm of heads, gate and output projection; forward only, random
weights, as many channels, heads and tokens. With --direction both a second layer walks the flipped tokens
and both are added: fla's layers have one direction. Where fla's layer lacks a piece of ours (linear
attention: the gate) or has one more, it is taken as it is.

Precision: fp32 is IEEE float32 in products and in Triton, tf32 lets both use TF32, bf16 and fp16 are
tensors of that type throughout (ours keep float32 beside the products, so this is the harder test for
ours). A layer that refuses a type is left out. 'ms' is the least of --rounds rounds of several calls,
replayed as a CUDA graph; 'launched_ms' is launched call by call.

MAMBA_PATH (folders with the packages mamba_ssm of LION, causal_conv1d, selective_scan_cuda) adds LION's
Mamba.
"""
import argparse
import json
import os
import sys
import time

REPEATS = 20  # calls of a round, enqueued one behind the other


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--operators", required=True)
    parser.add_argument("--shapes", required=True, help="CHANNELSxLENGTHxGROUPS,...")
    parser.add_argument("--direction", default="both")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def fla_layer(name, channels):
    """The layer with the settings of 'savanna bench operators'; None: fla has none."""
    import fla.layers as layers
    from fla.layers.simple_gla import SimpleGatedLinearAttention
    heads, gated = {"num_heads": 4}, {"use_output_gate": True}
    width = {"hidden_size": channels}
    head = {"head_dim": channels // 4}
    features = {"feature_dim": 16, "num_key_value_heads": 4, **heads}
    plain = {**width, **heads, "expand_k": 1, "expand_v": 1}
    makers = {
        "LinearAttention": lambda: layers.LinearAttention(**plain, feature_map="elu"),
        "Retention": lambda: layers.MultiScaleRetention(**width, **heads, expand_k=1, expand_v=2),
        "SimpleGLA": lambda: SimpleGatedLinearAttention(**plain),
        "GLA": lambda: layers.GatedLinearAttention(**width, **heads, expand_k=0.5, expand_v=1),
        "RWKV6": lambda: layers.RWKV6Attention(**plain),
        "RWKV7": lambda: layers.RWKV7Attention(**width, **head, layer_idx=0, num_hidden_layers=2,
                                               decay_low_rank_dim=32, a_low_rank_dim=32,
                                               gate_low_rank_dim=64),
        "Rodimus": lambda: layers.RodimusAttention(**width, expand_ratio=64),
        "LightNet": lambda: layers.LightNetAttention(**width, **heads, expand_ratio=None),
        "GSA": lambda: layers.GatedSlotAttention(**plain, num_slots=16, **gated),
        "ABC": lambda: layers.ABCAttention(**plain, num_slots=16, use_rope=False),
        "DeltaNet": lambda: layers.DeltaNet(**plain, use_gate=True),
        "DeltaNetNegative": lambda: layers.DeltaNet(**plain, use_gate=True, allow_neg_eigval=True),
        "GatedDeltaNet": lambda: layers.GatedDeltaNet(**width, **heads, **head, expand_v=1),
        "KDA": lambda: layers.KimiDeltaAttention(**width, **heads, **head, expand_v=1),
        "DeltaProduct": lambda: layers.GatedDeltaProduct(**width, **heads, **head, expand_v=1,
                                                         num_householder=2),
        "HGRN": lambda: layers.HGRNAttention(**width, expand_ratio=1),
        "Based": lambda: layers.BasedLinearAttention(channels, **features),
        "ReBased": lambda: layers.ReBasedLinearAttention(channels, **features),
        "MesaNet": lambda: layers.MesaNet(**width, **heads, **head, **gated),
        "ForgettingAttention": lambda: layers.ForgettingAttention(**width, **heads, **gated),
    }
    return makers[name]() if name in makers else None


def lion_mamba(channels):
    """LION's own block, which walks both ways by itself; None without MAMBA_PATH."""
    if "MAMBA_PATH" not in os.environ:
        return None
    sys.path[:0] = os.environ["MAMBA_PATH"].split(os.pathsep)
    from mamba_ssm import Block
    return Block(channels, d_state=16, d_conv=4, expand=2)


def make_block(name, channels, direction):
    """A function of x [groups, length, channels], and its parameters; None: this operator is not there."""
    import torch
    if name == "Mamba":
        block = lion_mamba(channels)
        return block and (block, [block])
    layers = [fla_layer(name, channels) for _ in range(2 if direction == "both" else 1)]
    if layers[0] is None:
        return None
    norm = torch.nn.LayerNorm(channels)

    def mixed(layer, x):
        y = layer(x)
        return y[0] if isinstance(y, tuple) else y

    def run(x):
        n = norm(x)
        y = x + mixed(layers[0], n)
        return y + mixed(layers[1], n.flip(1)).flip(1) if direction == "both" else y

    return run, [norm, *layers]


def wait(x):
    import torch
    if x.is_cuda:
        torch.cuda.synchronize()


def least(call, x, rounds):
    """Milliseconds a call, several enqueued behind each other, least of the rounds."""
    best = float("inf")
    for _ in range(rounds):
        wait(x)
        began = time.perf_counter()
        for _ in range(REPEATS):
            call()
        wait(x)
        best = min(best, (time.perf_counter() - began) * 1e3 / REPEATS)
    return best


def replayed(run, x):
    """The same call as a captured graph; None where it cannot be captured."""
    import torch
    if not x.is_cuda:
        return None
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            y = run(x)
    except Exception as error:  # whatever a layer does that a capture forbids
        print(f"no graph: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return graph.replay, y


def measure(run, x, rounds):
    import torch
    for _ in range(3):
        y = run(x)
    if not torch.isfinite(y).all():
        raise ValueError("its result is not finite")
    times = {"launched_ms": least(lambda: run(x), x, rounds)}
    captured = replayed(run, x)
    times["ms"] = least(captured[0], x, rounds) if captured else times["launched_ms"]
    return {key: round(value, 5) for key, value in times.items()}


def prepare(precision, threads):
    """torch set up for the precision; the type of tensors. Before Triton is imported."""
    if precision == "fp32":
        os.environ["TRITON_F32_DEFAULT"] = "ieee"
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def main():
    args = read_arguments()
    dtype = prepare(args.precision, args.threads)
    import torch
    import fla
    shapes = [tuple(int(n) for n in shape.split("x")) for shape in args.shapes.split(",")]
    found = []
    with torch.inference_mode():
        for name in args.operators.split(","):
            made = {}
            for channels, length, groups in shapes:
                try:
                    if channels not in made:
                        made[channels] = make_block(name, channels, args.direction)
                    if made[channels] is None:
                        break
                    run, modules = made[channels]
                    for module in modules:
                        module.to(args.device, dtype).eval()
                    x = torch.randn(groups, length, channels, device=args.device, dtype=dtype)
                    times = {"parameters": sum(p.numel() for module in modules for p in module.parameters()),
                             **measure(run, x, args.rounds)}
                except Exception as error:
                    text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                    print(f"{name} {channels}x{length}x{groups}: {text}", file=sys.stderr)
                    break
                found.append({"operator": name, "channels": channels, "length": length, "groups": groups,
                              **times})
    name = (f"flash-linear-attention {fla.__version__}, PyTorch {torch.__version__}, {args.precision}, "
            f"direction {args.direction}")
    print(json.dumps({"name": name, "operators": found}))


if __name__ == "__main__":
    main()
