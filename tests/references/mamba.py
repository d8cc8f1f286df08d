"""Vim and MambaVision in plain torch, written from their formulas: what PyPI has of them needs a GPU to be imported.

    python mamba.py --check FOLDER…     # against reference folders made by the authors' code

The selective scan is there in two forms. Both loop over time and read each state by the same `einsum`, as the authors'
reference does; they differ in how they come to a step's part of a tensor of (batch, channels, length, states) alone:

- `published` indexes the whole tensor at each step, as that reference does. Autograd answers each index with a gradient as
  large as the tensor, so that backward grows with the square of the length.
- `unbound` takes the tensor apart before the loop. Autograd answers all the parts with one gradient of the tensor's size.
"""

import json
import math
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

SCANS = ("published", "unbound")


def selective_scan(u, delta, a, b, c, d, bias, form):
    """u, delta: (batch, channels, length); a: (channels, states); b, c: (batch, states, length); d, bias: (channels)."""
    delta = F.softplus(delta + bias[:, None])
    decay = torch.exp(delta.unsqueeze(-1) * a[:, None, :])  # (batch, channels, length, states)
    fed = (delta * u).unsqueeze(-1) * b.transpose(1, 2).unsqueeze(1)
    h = u.new_zeros(u.shape[0], u.shape[1], a.shape[1])
    read = []
    if form == "unbound":
        parts = zip(decay.unbind(2), fed.unbind(2), c.unbind(2))
    else:
        parts = ((decay[:, :, t], fed[:, :, t], c[:, :, t]) for t in range(u.shape[2]))
    for decay_t, fed_t, c_t in parts:
        h = decay_t * h + fed_t
        read.append(torch.einsum("bdn,bn->bd", h, c_t))
    return torch.stack(read, 2) + u * d[:, None]


class RmsNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class VimMixer(nn.Module):
    def __init__(self, width, states, taps, expand, rank, form):
        super().__init__()
        inner = expand * width
        self.sizes, self.form = [rank, states, states], form
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)
        for way in ("", "_b"):
            setattr(self, f"conv1d{way}", nn.Conv1d(inner, inner, taps, groups=inner))
            setattr(self, f"x_proj{way}", nn.Linear(inner, sum(self.sizes), bias=False))
            setattr(self, f"dt_proj{way}", nn.Linear(rank, inner))
            setattr(self, f"A{way}_log", nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1)))
            setattr(self, f"D{way}", nn.Parameter(torch.ones(inner)))

    def one_way(self, x, way):
        conv = getattr(self, f"conv1d{way}")
        x = F.silu(conv(F.pad(x, (conv.kernel_size[0] - 1, 0))))
        steps, b, c = getattr(self, f"x_proj{way}")(x.transpose(1, 2)).split(self.sizes, -1)
        projection = getattr(self, f"dt_proj{way}")
        # Called as a layer, so that adapters act; the bias, which the layer adds, is taken off again for the scan.
        delta = (projection(steps) - projection.bias).transpose(1, 2)
        a = -getattr(self, f"A{way}_log").exp()
        b, c = b.transpose(1, 2), c.transpose(1, 2)
        return selective_scan(x, delta, a, b, c, getattr(self, f"D{way}"), projection.bias, self.form)

    def forward(self, x):
        x, z = self.in_proj(x).transpose(1, 2).chunk(2, 1)
        y = self.one_way(x, "") + self.one_way(x.flip(2), "_b").flip(2)
        return self.out_proj((y * F.silu(z) / 2).transpose(1, 2))


class VimBlock(nn.Module):
    def __init__(self, width, eps, mixer):
        super().__init__()
        self.norm, self.mixer = RmsNorm(width, eps), mixer

    def forward(self, hidden, residual):
        residual = hidden if residual is None else residual + hidden
        return self.mixer(self.norm(residual)), residual


class Patches(nn.Module):
    def __init__(self, width, patch, stride):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Vim(nn.Module):
    def __init__(self, embed_dim, depth, num_classes, img_size=224, patch_size=16, stride=None, d_state=16, d_conv=4, expand=2,
                 norm_eps=1e-5, scan="unbound", checkpointing=False):
        super().__init__()
        stride = stride or patch_size
        patches = ((img_size - patch_size) // stride + 1) ** 2
        rank = math.ceil(embed_dim / 16)
        self.middle, self.checkpointing = patches // 2, checkpointing
        self.patch_embed = Patches(embed_dim, patch_size, stride)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, patches + 1, embed_dim))
        self.layers = nn.ModuleList(
            VimBlock(embed_dim, norm_eps, VimMixer(embed_dim, d_state, d_conv, expand, rank, scan)) for _ in range(depth))
        self.norm_f = RmsNorm(embed_dim, norm_eps)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward_features(self, x):
        x = self.patch_embed(x)
        token = self.cls_token.expand(len(x), -1, -1)
        hidden, residual = torch.cat([x[:, :self.middle], token, x[:, self.middle:]], 1) + self.pos_embed, None
        for layer in self.layers:
            if self.checkpointing and self.training:
                hidden, residual = checkpoint(layer, hidden, residual, use_reentrant=False)
            else:
                hidden, residual = layer(hidden, residual)
        return self.norm_f(residual + hidden)[:, self.middle]

    def forward(self, x):
        return self.head(self.forward_features(x))


class ScanMixer(nn.Module):
    def __init__(self, width, states, taps, expand, form):
        super().__init__()
        inner, rank = expand * width, math.ceil(width / 16)
        half = inner // 2
        self.sizes, self.form = [rank, states, states], form
        self.in_proj = nn.Linear(width, inner, bias=False)
        self.conv1d_x = nn.Conv1d(half, half, taps, groups=half, padding="same", bias=False)
        self.conv1d_z = nn.Conv1d(half, half, taps, groups=half, padding="same", bias=False)
        self.x_proj = nn.Linear(half, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, half)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(half, 1))
        self.D = nn.Parameter(torch.ones(half))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        x, z = self.in_proj(x).transpose(1, 2).chunk(2, 1)
        x, z = F.silu(self.conv1d_x(x)), F.silu(self.conv1d_z(z))
        steps, b, c = self.x_proj(x.transpose(1, 2)).split(self.sizes, -1)
        delta = self.dt_proj(steps).transpose(1, 2)  # with its bias, which the scan adds again
        b, c = b.transpose(1, 2), c.transpose(1, 2)
        y = selective_scan(x, delta, -self.A_log.exp(), b, c, self.D, self.dt_proj.bias, self.form)
        return self.out_proj(torch.cat([y, z], 1).transpose(1, 2))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.fused_attn = heads, True
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        windows, tokens, width = x.shape
        q, k, v = self.qkv(x).view(windows, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused_attn:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(windows, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class WindowBlock(nn.Module):
    def __init__(self, width, mixer, mlp_ratio, layer_scale):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixer, self.mlp = mixer, Mlp(width, int(width * mlp_ratio))
        self.gamma_1 = self.gamma_2 = 1.0
        if layer_scale is not None:
            self.gamma_1 = nn.Parameter(layer_scale * torch.ones(width))
            self.gamma_2 = nn.Parameter(layer_scale * torch.ones(width))

    def forward(self, x):
        x = x + self.gamma_1 * self.mixer(self.norm1(x))
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class ConvBlock(nn.Module):
    def __init__(self, width, layer_scale):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.gamma = None if layer_scale is None else nn.Parameter(layer_scale * torch.ones(width))

    def forward(self, x):
        y = self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x)), approximate="tanh")))
        return x + (y if self.gamma is None else y * self.gamma[:, None, None])


class Downsample(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.reduction = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False))

    def forward(self, x):
        return self.reduction(x)


class Level(nn.Module):
    def __init__(self, blocks, window, downsample, checkpointing):
        super().__init__()
        self.blocks, self.window, self.checkpointing = nn.ModuleList(blocks), window, checkpointing
        self.downsample = downsample

    def forward(self, x):
        batch, channels, height, width = x.shape
        w = self.window
        if w:
            rows, columns = -height % w + height, -width % w + width
            x = F.pad(x, (0, columns - width, 0, rows - height)).view(batch, channels, rows // w, w, columns // w, w)
            x = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, w * w, channels)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing and self.training else block(x)
        if w:
            x = x.view(batch, rows // w, columns // w, w, w, channels).permute(0, 5, 1, 3, 2, 4)
            x = x.reshape(batch, channels, rows, columns)[:, :, :height, :width].contiguous()
        return x if self.downsample is None else self.downsample(x)


class Stem(nn.Module):
    def __init__(self, between, width):
        super().__init__()
        self.conv_down = nn.Sequential(
            nn.Conv2d(3, between, 3, 2, 1, bias=False), nn.BatchNorm2d(between, eps=1e-4), nn.ReLU(),
            nn.Conv2d(between, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width, eps=1e-4), nn.ReLU())

    def forward(self, x):
        return self.conv_down(x)


class MambaVision(nn.Module):
    def __init__(self, dim, in_dim, depths, num_heads, window_size, num_classes, mlp_ratio=4, d_state=8, d_conv=3, expand=1,
                 layer_scale=None, layer_scale_conv=None, scan="unbound", checkpointing=False):
        super().__init__()
        self.patch_embed = Stem(in_dim, dim)
        self.levels = nn.ModuleList()
        for i, depth in enumerate(depths):
            width = dim << i

            def mixer(j, depth=depth, width=width, heads=num_heads[i]):
                scans = j < (depth + 1) // 2
                return ScanMixer(width, d_state, d_conv, expand, scan) if scans else Attention(width, heads)

            if i < 2:
                blocks, window = [ConvBlock(width, layer_scale_conv) for _ in range(depth)], None
            else:
                blocks = [WindowBlock(width, mixer(j), mlp_ratio, layer_scale) for j in range(depth)]
                window = window_size[i]
            downsample = Downsample(width) if i + 1 < len(depths) else None
            self.levels.append(Level(blocks, window, downsample, checkpointing))
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)

    def forward_features(self, x):
        x = self.patch_embed(x)
        for level in self.levels:
            x = level(x)
        return self.norm(x).mean((2, 3))

    def forward(self, x):
        return self.head(self.forward_features(x))


VIM = {"vim_tiny": {"embed_dim": 192, "depth": 24}, "vim_small": {"embed_dim": 384, "depth": 24}}
MAMBA_VISION_T = {"dim": 80, "in_dim": 32, "depths": [1, 3, 8, 4], "num_heads": [2, 4, 8, 16], "window_size": [8, 8, 14, 7]}


def create(backbone, num_classes, img_size=224, **more):
    """A full-size model by our name of it: `vim_small_patch16_224`, `vim_tiny_patch16_224` or `mamba_vision_T`."""
    if backbone == "mamba_vision_T":
        return MambaVision(**MAMBA_VISION_T, num_classes=num_classes, **more)
    return Vim(**VIM[backbone.removesuffix("_patch16_224")], num_classes=num_classes, img_size=img_size, **more)


def from_config(config, **more):
    """The model that a reference folder's configuration describes."""
    if config["architecture"] == "vim":
        keys = ("embed_dim", "depth", "img_size", "patch_size", "stride", "d_state", "d_conv", "expand", "norm_eps")
        model = Vim
    else:
        keys = ("dim", "in_dim", "depths", "num_heads", "window_size", "mlp_ratio", "d_state", "d_conv", "expand",
                "layer_scale", "layer_scale_conv")
        model = MambaVision
    return model(num_classes=config["num_classes"], **{key: config[key] for key in keys if key in config}, **more)


def check(folder):
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    io, weights = load_file(folder / "io.safetensors"), load_file(folder / "weights.safetensors")
    worst = {}

    def compare(what, ours, theirs, most, floor=0.0):
        difference = (ours.double() - theirs.double()).abs().max().item()
        allowed = max(most * (theirs.abs().max().item() if floor else 1.0), floor)
        group = what.split(".")[0]
        worst[group] = max(worst.get(group, 0.0), difference / allowed)
        return difference <= allowed

    fine = True
    for form in SCANS:
        model = from_config(config, scan=form)
        model.load_state_dict(weights, strict=True)
        model.eval()
        with torch.no_grad():
            fine &= compare("logits", model(io["input"]), io["eval.logits"], 1e-5)
            fine &= compare("logits64", model.double()(io["input"].double()), io["eval.logits_f64"], 1e-10)
        model = from_config(config, scan=form)
        model.load_state_dict(weights)
        F.cross_entropy(model.train()(io["input"]), io["labels"]).backward()
        grads = dict(model.named_parameters())
        for name, reference in io.items():
            if name.startswith("grad."):
                fine &= compare(name, grads[name[5:]].grad, reference, 1e-4, floor=1e-6)
            elif name.startswith("post."):
                fine &= compare(name, model.state_dict()[name[5:]], reference, 1e-5)
    print(f"{'fine' if fine else 'OFF '}  {folder}  of what is allowed: {worst}")
    return fine


if __name__ == "__main__":
    if sys.argv[1:2] != ["--check"] or len(sys.argv) < 3:
        raise SystemExit(__doc__)
    sys.exit(not all([check(Path(folder)) for folder in sys.argv[2:]]))
