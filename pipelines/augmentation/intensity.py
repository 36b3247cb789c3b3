"""Changes of the image values of a patch (nnU-Net v2): noise, blur, brightness, contrast, low resolution, gamma.

Each transform is two classes: `Random…` draws for one sample (None: nothing happens), the other is what was drawn and
can be applied again with the same result on the same kind of device. Images are (C, *spatial) float32; labels pass
unchanged, except in `BackgroundOutside`. Per-channel tuples have one entry per channel, None where the channel stays
as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipelines.preprocessing.crop import OUTSIDE

_EPSILON = 1e-7
_BLUR_REACH = 4.0


@dataclass(frozen=True)
class Noise:
    """Add Gaussian noise of standard deviation `sigma`, made from `seed` on the image's device."""

    sigma: float
    seed: int

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Add independent noise to every voxel of every channel."""
        generator = torch.Generator(image.device).manual_seed(self.seed)
        noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
        return noise.mul_(self.sigma).add_(image), label


@dataclass(frozen=True)
class RandomNoise:
    """One sigma for all channels, uniform between 0 and `largest_sigma`."""

    probability: float = 0.1
    largest_sigma: float = 0.1

    def draw(self, rng: np.random.Generator) -> Noise | None:
        """Draw for one sample."""
        if rng.random() >= self.probability:
            return None
        return Noise(float(rng.uniform(0, self.largest_sigma)), int(rng.integers(2**31)))


@dataclass(frozen=True)
class Blur:
    """Gaussian blur; per channel a sigma per axis in voxels, or None. Border values are repeated."""

    sigmas: tuple[tuple[float, ...] | None, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Blur the chosen channels."""
        channels = [
            channel if sigmas is None else _blurred(channel, sigmas)
            for channel, sigmas in zip(image, self.sigmas, strict=True)
        ]
        return torch.stack(channels), label


def _blurred(channel: Tensor, sigmas: tuple[float, ...]) -> Tensor:
    for axis, sigma in enumerate(sigmas):
        matrix = _blur_matrix(channel.shape[axis], sigma).to(channel.device)
        channel = (channel.transpose(axis, -1) @ matrix).transpose(axis, -1)
    return channel


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """(size, size); column j holds the weights of blurred voxel j. On a patch it is faster than a convolution."""
    reach = int(_BLUR_REACH * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    source = (torch.arange(size) + steps[:, None]).clamp(0, size - 1)
    return torch.zeros(size, size).scatter_add_(0, source, weights[:, None].expand(-1, size).contiguous())


@dataclass(frozen=True)
class RandomBlur:
    """Each channel with `channel_probability`; a sigma per axis, uniform in `sigma` (voxels)."""

    num_channels: int
    num_dims: int
    probability: float = 0.2
    channel_probability: float = 0.5
    sigma: tuple[float, float] = (0.5, 1.0)

    def draw(self, rng: np.random.Generator) -> Blur | None:
        """Draw for one sample."""
        if rng.random() >= self.probability:
            return None
        sigmas = tuple(
            tuple(float(value) for value in rng.uniform(*self.sigma, self.num_dims))
            if rng.random() < self.channel_probability
            else None
            for _ in range(self.num_channels)
        )
        return Blur(sigmas) if any(sigmas) else None


@dataclass(frozen=True)
class Brightness:
    """Multiply each channel by its factor."""

    factors: tuple[float, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply."""
        return image * _per_channel(self.factors, image), label


@dataclass(frozen=True)
class Contrast:
    """Stretch each channel about its mean by its factor, clipped to the range it had."""

    factors: tuple[float, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Stretch and clip."""
        axes = tuple(range(1, image.ndim))
        mean = image.mean(axes, keepdim=True)
        low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
        # Weights that sum to one keep a factor of one exact.
        factors = _per_channel(self.factors, image)
        return (image * factors + mean * (1 - factors)).clamp(low, high), label


@dataclass(frozen=True)
class RandomBrightness:
    """A factor per channel, below or above one with equal chance."""

    num_channels: int
    probability: float = 0.15
    factor: tuple[float, float] = (0.75, 1.25)

    def draw(self, rng: np.random.Generator) -> Brightness | None:
        """Draw for one sample."""
        if rng.random() >= self.probability:
            return None
        return Brightness(_factors_about_one(rng, self.factor, self.num_channels))


@dataclass(frozen=True)
class RandomContrast:
    """A factor per channel, below or above one with equal chance."""

    num_channels: int
    probability: float = 0.15
    factor: tuple[float, float] = (0.75, 1.25)

    def draw(self, rng: np.random.Generator) -> Contrast | None:
        """Draw for one sample."""
        if rng.random() >= self.probability:
            return None
        return Contrast(_factors_about_one(rng, self.factor, self.num_channels))


@dataclass(frozen=True)
class LowResolution:
    """Shrink each channel by its scale (nearest) and enlarge it again (linear); None leaves a channel.

    With `keeps_first_axis` the first spatial axis stays at its resolution.
    """

    scales: tuple[float | None, ...]
    keeps_first_axis: bool = False

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Lower the resolution of the chosen channels."""
        channels = [
            channel if scale is None else self._coarse(channel, scale)
            for channel, scale in zip(image, self.scales, strict=True)
        ]
        return torch.stack(channels), label

    def _coarse(self, channel: Tensor, scale: float) -> Tensor:
        shape = list(channel.shape)
        small = [max(1, round(size * scale)) for size in shape]
        if self.keeps_first_axis:
            small[0] = shape[0]
        shrunk = functional.interpolate(channel[None, None], small, mode="nearest-exact")
        mode = "trilinear" if len(shape) == 3 else "bilinear"
        return functional.interpolate(shrunk, shape, mode=mode, align_corners=False)[0, 0]


@dataclass(frozen=True)
class RandomLowResolution:
    """Each channel with `channel_probability`; one scale for all axes, uniform in `scale`."""

    num_channels: int
    keeps_first_axis: bool = False
    probability: float = 0.25
    channel_probability: float = 0.5
    scale: tuple[float, float] = (0.5, 1.0)

    def draw(self, rng: np.random.Generator) -> LowResolution | None:
        """Draw for one sample."""
        if rng.random() >= self.probability:
            return None
        scales = tuple(
            float(rng.uniform(*self.scale)) if rng.random() < self.channel_probability else None
            for _ in range(self.num_channels)
        )
        return LowResolution(scales, self.keeps_first_axis) if any(scales) else None


@dataclass(frozen=True)
class Gamma:
    """Raise each channel, scaled to 0..1, to its exponent; mean and standard deviation are restored.

    With `is_inverted` this happens to the negative image.
    """

    exponents: tuple[float, ...]
    is_inverted: bool

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Change the tone curve."""
        axes = tuple(range(1, image.ndim))
        values = -image if self.is_inverted else image
        low = values.amin(axes, keepdim=True)
        extent = (values.amax(axes, keepdim=True) - low).clamp_min(_EPSILON)
        # A power by its logarithm takes half the time; that of zero is minus infinity, whose power is zero again.
        curved = ((values - low) / extent).log_().mul_(_per_channel(self.exponents, image)).exp_()
        mean, std = _mean_and_std(values)
        new_mean, new_std = _mean_and_std(curved)
        curved = curved.sub_(new_mean).mul_(std / new_std.clamp_min(_EPSILON)).add_(mean)
        return (curved.neg_() if self.is_inverted else curved), label


@dataclass(frozen=True)
class RandomGamma:
    """An exponent per channel, below or above one with equal chance."""

    num_channels: int
    is_inverted: bool
    probability: float
    exponent: tuple[float, float] = (0.7, 1.5)

    def draw(self, rng: np.random.Generator) -> Gamma | None:
        """Draw for one sample."""
        if rng.random() >= self.probability:
            return None
        return Gamma(_factors_about_one(rng, self.exponent, self.num_channels), self.is_inverted)


@dataclass(frozen=True)
class ZeroOutside:
    """Set `channels` to 0 where the label is -1: what the nonzero mask left out of the normalisation."""

    channels: tuple[int, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Clear the outside."""
        image = image.clone()
        for channel in self.channels:
            image[channel].masked_fill_(label == OUTSIDE, 0)
        return image, label


@dataclass(frozen=True)
class BackgroundOutside:
    """Give label -1 the value of the background, 0."""

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Replace."""
        return image, label.clamp_min(0)


def _factors_about_one(rng: np.random.Generator, limits: tuple[float, float], num_channels: int) -> tuple[float, ...]:
    low, high = limits
    return tuple(
        float(rng.uniform(low, 1)) if rng.random() < 0.5 else float(rng.uniform(1, high)) for _ in range(num_channels)
    )


def _mean_and_std(image: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel, (C, 1, ...); in two passes, which is several times faster than torch's one."""
    axes = tuple(range(1, image.ndim))
    mean = image.mean(axes, keepdim=True)
    norm = torch.linalg.vector_norm(image - mean, dim=axes, keepdim=True)
    return mean, norm / max(image[0].numel() - 1, 1) ** 0.5


def _per_channel(values: tuple[float, ...], image: Tensor) -> Tensor:
    return torch.tensor(values, dtype=image.dtype).to(image.device).view(-1, *[1] * (image.ndim - 1))
