"""Makes `vision_conformer.npz`: what pengzhiliang/Conformer computes from weights made by formula.

    python tests/golden/make_vision_conformer.py --peer_repo CHECKOUT

needs torch and numpy, and neither timm nor this project's environment. A weight is
`weight(name, shape)` below, in the official naming; only the batch norm statistics, which the peer
calibrates on two batches, are stored.
"""

import argparse
import sys
import types
import zlib
from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).with_name("vision_conformer.npz")
VARIANTS = {
    f"patch{patch}": {
        "patch_size": patch,
        "channel_ratio": 0.25,
        "hidden_dim": 32,
        "num_heads": 2,
        "num_layers": 6,
    }
    for patch in (16, 32)
}
NUM_CLASSES = 10
IMAGE_SHAPE = (2, 64, 96, 3)
# Depths at which outputs are kept: a module, and what its forward pass returns.
DEPTHS = {"stem": "maxpool", "layer_3": "conv_trans_3", "layer_6": "conv_trans_6"}
KEPT_CHANNELS = slice(None, None, 8)  # of the maps, to keep the file small


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight from its official name: scales around 1, others normal, products by their fan-in."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1 and name != "cls_token":
        draw *= np.prod(shape[1:]) ** -0.5
    else:
        draw *= 0.1
    scales = name.endswith("weight") and len(shape) == 1
    return (draw + scales).astype(np.float32)


def images(seed: int = 0) -> np.ndarray:
    """Made-up normalized images, `[2, 64, 96, 3]`."""
    return np.random.default_rng(seed).standard_normal(IMAGE_SHAPE).astype(np.float32)


def _peer(checkout: Path):
    """Imports the peer with stand-ins for the two symbols it takes from timm."""
    import torch

    class DropPath(torch.nn.Identity):
        def __init__(self, rate):
            super().__init__()

    for name in ("timm", "timm.models", "timm.models.layers"):
        sys.modules[name] = layers = types.ModuleType(name)
    layers.DropPath, layers.trunc_normal_ = DropPath, torch.nn.init.trunc_normal_
    sys.path.insert(0, str(checkout))
    from conformer import Conformer

    return Conformer


def _outputs(peer, sizes: dict) -> dict[str, np.ndarray]:
    import torch

    model = peer(
        patch_size=sizes["patch_size"],
        channel_ratio=sizes["channel_ratio"],
        embed_dim=sizes["hidden_dim"],
        depth=sizes["num_layers"],
        num_heads=sizes["num_heads"],
        num_classes=NUM_CLASSES,
        qkv_bias=True,
    )
    kept = {}

    def keep(depth):
        def hook(module, inputs, outputs):
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            for name, x in zip(("map", "tokens"), outputs, strict=False):
                x = x.permute(0, 2, 3, 1)[..., KEPT_CHANNELS] if name == "map" else x
                kept[f"{depth}_{name}"] = x.numpy()

        return hook

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the mean over all batches
        for seed in (1, 2):
            model.train()(torch.from_numpy(images(seed)).permute(0, 3, 1, 2))
        for depth, module in DEPTHS.items():
            model.get_submodule(module).register_forward_hook(keep(depth))
        logits = model.eval()(torch.from_numpy(images()).permute(0, 3, 1, 2))
    kept["convolution_logits"], kept["transformer_logits"] = (x.numpy() for x in logits)
    statistics = {k: v.numpy() for k, v in model.state_dict().items() if ".running_" in k}
    return kept | statistics


def main() -> None:
    """Writes the file beside this program."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer_repo", type=Path, required=True, help="a checkout of the peer")
    peer = _peer(parser.parse_args().peer_repo)
    import torch

    arrays = {
        f"{variant}/{name}": value
        for variant, sizes in VARIANTS.items()
        for name, value in _outputs(peer, sizes).items()
    }
    made_by = f"pengzhiliang/Conformer==815aaad torch=={torch.__version__} numpy=={np.__version__}"
    np.savez_compressed(OUTPUT, made_by=np.array(made_by), **arrays)


if __name__ == "__main__":
    main()
