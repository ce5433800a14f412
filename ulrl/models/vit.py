"""ViT-B/16, a victim of the benchmarks."""

from collections import OrderedDict
from dataclasses import dataclass, field
from math import isqrt, sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ulrl.models._base import register
from ulrl.models._pretrained import IMAGENET, WEIGHTS, Pretrainable, bare, fetch, inside
from ulrl.models._resize import Resize
from ulrl.models._vit_names import State, torchvision_names

PUBLISHED = "vit_base_patch16_224.augreg_in1k"


@register("vit_b_16")
@dataclass(frozen=True, kw_only=True)
class ViTB16(Pretrainable):
    """Vision transformer of Dosovitskiy et al. (arXiv:2010.11929) behind a resize.

    Parameter names, shapes and the initial draw are torchvision's under a leading ``1.``,
    and so BackdoorBench's. The head starts at zero. With ``weights: imagenet`` all but the
    head are timm's ``vit_base_patch16_224.augreg_in1k``, its position embedding
    interpolated for another `size`.

    Attributes:
        size: Side in pixels to which images are resized inside.
        patch: Side of a patch in pixels; `size` is a multiple.
        width: Length of a token.
        depth: Encoder layers.
        heads: Attention heads; `width` is a multiple.
        mlp: Units of an encoder layer's hidden layer; by default four times `width`.
        weights: What training starts from: ``imagenet``, or a file with timm's,
            torchvision's, Hugging Face's or this project's names; by default a random draw.
    """

    size: int = 224
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int | None = None
    weights: str | None = field(default=None, metadata=WEIGHTS)

    def __post_init__(self) -> None:
        limits = {"size": 1024, "patch": 256, "width": 4096, "depth": 64, "heads": 64}
        for option, most in limits.items():
            value = getattr(self, option)
            if not 1 <= value <= most:
                raise ValueError(f"{option} is from 1 to {most}; got {value}")
        if self.mlp is not None and not 1 <= self.mlp <= 16384:
            raise ValueError(f"mlp is in units, from 1 to 16384; got {self.mlp}")
        for option, part in (("size", "patch"), ("width", "heads")):
            whole, divisor = getattr(self, option), getattr(self, part)
            if whole % divisor:
                raise ValueError(f"{option} is a multiple of {part}, here {divisor}; got {whole}")
        self.check_weights()
        base = (self.patch, self.width, self.depth, self.heads, self.hidden)
        if self.weights == IMAGENET and base != (16, 768, 12, 12, 3072):
            raise ValueError(
                "weights: imagenet are for patch 16, width 768, depth 12, heads 12 and mlp 3072; "
                "leave these options out, or weights"
            )

    @property
    def head(self) -> str:
        return "1.heads.head"

    @property
    def hidden(self) -> int:
        """Units of an encoder layer's hidden layer."""
        return 4 * self.width if self.mlp is None else self.mlp

    @property
    def published(self) -> str | None:
        return f"timm/{PUBLISHED}"

    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        del side  # resized
        return nn.Sequential(Resize(self.size), _Transformer(self, channels, classes))

    def fetched(self, network: nn.Module) -> State:
        from timm import create_model

        def make() -> nn.Module:
            donor: nn.Module = create_model(PUBLISHED, pretrained=True, img_size=self.size)
            return donor

        return self.translated(fetch(make, f"timm/{PUBLISHED}"), network)

    def named(self, state: State, network: nn.Module) -> State:
        del network
        return inside(torchvision_names(bare(state)))

    def translated(self, state: State, network: nn.Module) -> State:
        named = self.named(state, network)
        place = "1.encoder.pos_embedding"
        if place in named:
            named[place] = _positions(named[place], self.size // self.patch)
        return named


class _Transformer(nn.Module):
    def __init__(self, options: ViTB16, channels: int, classes: int) -> None:
        super().__init__()
        width, patch = options.width, options.patch
        # In torchvision's order, so that a seed gives the same draw.
        self.conv_proj = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder = _Encoder(options)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(width, classes)))
        nn.init.trunc_normal_(self.conv_proj.weight, std=sqrt(1 / (channels * patch**2)))
        for value in (self.conv_proj.bias, *self.heads.parameters()):
            if value is not None:
                nn.init.zeros_(value)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1)
        logits: Tensor = self.heads(self.encoder(tokens)[:, 0])
        return logits


class _Encoder(nn.Module):
    def __init__(self, options: ViTB16) -> None:
        super().__init__()
        count = (options.size // options.patch) ** 2 + 1
        self.pos_embedding = nn.Parameter(torch.empty(1, count, options.width).normal_(std=0.02))
        layers = {f"encoder_layer_{i}": _Layer(options) for i in range(options.depth)}
        self.layers = nn.Sequential(OrderedDict(layers))
        self.ln = nn.LayerNorm(options.width, eps=1e-6)

    def forward(self, tokens: Float[Tensor, "n t w"]) -> Float[Tensor, "n t w"]:
        out: Tensor = self.ln(self.layers(tokens + self.pos_embedding))
        return out


class _Layer(nn.Module):
    def __init__(self, options: ViTB16) -> None:
        super().__init__()
        width = options.width
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, options.heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        first, second = nn.Linear(width, options.hidden), nn.Linear(options.hidden, width)
        # Identity keeps torchvision's numbers, where a dropout of 0 stands.
        self.mlp = nn.Sequential(first, nn.GELU(), nn.Identity(), second)
        for linear in (first, second):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, tokens: Float[Tensor, "n t w"]) -> Float[Tensor, "n t w"]:
        tokens = tokens + _attention(self.self_attention, self.ln_1(tokens))
        out: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return out


def _attention(layer: nn.MultiheadAttention, x: Float[Tensor, "n t w"]) -> Float[Tensor, "n t w"]:
    """Return what `layer` gives, computed alike in each mode on a CPU.

    The layer itself has another kernel for evaluation, and torch's fused ones have gradients
    on GPUs that may differ from run to run; they are taken where they do not.
    """
    qkv = nn.functional.linear(x, layer.in_proj_weight, layer.in_proj_bias)
    # [n, t, 3·heads·d] -> three of [n, heads, t, d]
    split = qkv.reshape(*x.shape[:2], 3, layer.num_heads, layer.head_dim)
    query, key, value = split.permute(2, 0, 3, 1, 4)
    if _fusible(query):
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
    else:
        scores = (query * layer.head_dim**-0.5) @ key.transpose(-2, -1)
        mixed = scores.softmax(dim=-1) @ value
    out: Tensor = layer.out_proj(mixed.transpose(1, 2).flatten(2))
    return out


def _fusible(query: Float[Tensor, "n heads t d"]) -> bool:
    """Whether there is a fused kernel, and one that gives the same numbers in each run.

    Forward always. Backward, Flash Attention adds what blocks of 128 tokens give to a query's
    gradient in whatever order they end: of two blocks, either order gives the same sum.
    """
    tokens, features = query.shape[-2:]
    if not query.is_cuda or features % 8:
        return False
    if not (torch.is_grad_enabled() and query.requires_grad):
        return True
    half = query.dtype in {torch.bfloat16, torch.float16}
    ampere = torch.cuda.get_device_capability(query.device) >= (8, 0)  # Flash Attention's first
    return half and ampere and tokens <= 256 and features <= 64


def _positions(embedding: Tensor, grid: int) -> Tensor:
    """Return a position embedding for `grid`² patches; one that is no grid stays as it is."""
    count = embedding.shape[1] - 1 if embedding.ndim == 3 else 0
    old = isqrt(count) if count > 0 else 0
    if old in {0, grid} or old**2 != count:
        return embedding
    from timm.layers.pos_embed import resample_abs_pos_embed

    resampled: Tensor = resample_abs_pos_embed(embedding, [grid, grid], [old, old])
    return resampled
