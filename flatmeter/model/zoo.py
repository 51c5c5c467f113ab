"""Small networks for small images: a perceptron, a convolutional and a residual network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from torch import Tensor, nn

from flatmeter.errors import UsageError

ACTIVATIONS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
)
_NORMS: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
)
_NORMS_2D: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType({"batch": nn.BatchNorm2d})


def mlp(
    in_features: int = 64,
    hidden: Sequence[int] = (32, 32),
    classes: int = 10,
    activation: str = "relu",
    bias: bool = True,
    norm: str = "none",
) -> nn.Sequential:
    """Linear layers with activations between them; inputs of any shape are flattened.

    Args:
        in_features: numbers in one input (64 for the digits).
        hidden: width of each hidden layer.
        classes: number of outputs.
        activation: ``relu``, ``gelu`` or ``tanh``.
        bias: linear layers add a bias.
        norm: ``none``, ``batch`` or ``layer``, before each activation.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = in_features
    for i, wider in enumerate(hidden):
        layers[f"linear{i}"] = nn.Linear(width, wider, bias=bias)
        _append(layers, i, _norm(norm, wider, _NORMS), _activation(activation))
        width = wider
    layers["head"] = nn.Linear(width, classes, bias=bias)
    return nn.Sequential(layers)


def cnn(
    in_channels: int = 1,
    channels: Sequence[int] = (8, 16),
    classes: int = 10,
    activation: str = "relu",
    bias: bool = True,
    norm: str = "none",
) -> nn.Sequential:
    """3×3 convolutions, each after the first halving the image; average pool; linear head.

    Args:
        in_channels: channels of the images, which may have any size.
        channels: width of each convolution.
        classes: number of outputs.
        activation: ``relu``, ``gelu`` or ``tanh``.
        bias: layers add a bias.
        norm: ``none`` or ``batch``, before each activation.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = in_channels
    for i, wider in enumerate(channels):
        layers[f"conv{i}"] = nn.Conv2d(width, wider, 3, stride=min(i, 1) + 1, padding=1, bias=bias)
        _append(layers, i, _norm(norm, wider, _NORMS_2D), _activation(activation))
        width = wider
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(width, classes, bias=bias)
    return nn.Sequential(layers)


def resnet(
    in_channels: int = 1,
    width: int = 8,
    blocks: Sequence[int] = (1, 1),
    classes: int = 10,
    activation: str = "relu",
    bias: bool = True,
    norm: str = "batch",
) -> nn.Sequential:
    """A residual network: stages of basic blocks, each stage twice as wide and half as large.

    Args:
        in_channels: channels of the images, which may have any size.
        width: channels of the first stage.
        blocks: number of blocks in each stage.
        classes: number of outputs.
        activation: ``relu``, ``gelu`` or ``tanh``.
        bias: layers add a bias.
        norm: ``batch`` or ``none``, after each convolution.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = nn.Conv2d(in_channels, width, 3, padding=1, bias=bias)
    _append(layers, "stem", _norm(norm, width, _NORMS_2D), _activation(activation))
    before = width
    for stage, count in enumerate(blocks):
        after = width * 2**stage
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            block = ResidualBlock(before, after, stride, activation, bias, norm)
            layers[f"stage{stage}_{i}"] = block
            before = after
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(before, classes, bias=bias)
    return nn.Sequential(layers)


class ResidualBlock(nn.Module):
    """``φ(x' + conv(φ(conv(x))))``, where ``x'`` is ``x`` or a 1×1 convolution of it.

    Args:
        before: channels of the input.
        after: channels of the output.
        stride: of the first convolution.
        activation: φ.
        bias: convolutions add a bias.
        norm: ``batch`` or ``none``, after each convolution.
    """

    def __init__(
        self, before: int, after: int, stride: int, activation: str, bias: bool, norm: str
    ) -> None:
        super().__init__()
        inner: OrderedDict[str, nn.Module] = OrderedDict()
        inner["conv0"] = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=bias)
        _append(inner, 0, _norm(norm, after, _NORMS_2D), _activation(activation))
        inner["conv1"] = nn.Conv2d(after, after, 3, padding=1, bias=bias)
        _append(inner, 1, _norm(norm, after, _NORMS_2D), None)
        self.inner = nn.Sequential(inner)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=bias)
        self.activation = _activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, before, H, W]`` to ``[N, after, H / stride, W / stride]``."""
        y: Tensor = self.activation(self.shortcut(x) + self.inner(x))
        return y


ZOO: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"mlp": mlp, "cnn": cnn, "resnet": resnet}
)


def _append(
    layers: OrderedDict[str, nn.Module],
    index: int | str,
    norm: nn.Module | None,
    activation: nn.Module | None,
) -> None:
    if norm is not None:
        layers[f"norm{index}" if isinstance(index, int) else f"{index}_norm"] = norm
    if activation is not None:
        layers[f"act{index}" if isinstance(index, int) else f"{index}_act"] = activation


def _activation(name: str) -> nn.Module:
    return _chosen("activation", name, ACTIVATIONS)()


def _norm(
    name: str, width: int, known: Mapping[str, Callable[[int], nn.Module]]
) -> nn.Module | None:
    return None if name == "none" else _chosen("norm", name, known)(width)


def _chosen(
    role: str, name: str, known: Mapping[str, Callable[..., nn.Module]]
) -> Callable[..., nn.Module]:
    if name not in known:
        listed = [*known, *(["none"] if role == "norm" else [])]
        raise UsageError(
            f"{role} cannot be {name!r}", where="--model-arg", hint=f"it can be {', '.join(listed)}"
        )
    return known[name]
