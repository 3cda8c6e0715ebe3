"""The paper's models, how it trained them (appendix D) and its experiment (section 4.2)."""

from dataclasses import dataclass, field, replace

CHAINS = 100  # of the experiment; each has as many images
SEED = 100  # of the published choice of test images
LEAST_LR = 5e-4  # at which the learning rate stops to decay


@dataclass(frozen=True)
class Settings:
    """What differs between the datasets. The defaults are those of most of them."""

    dataset: str
    xs: tuple[int, int, int]  # C, H, W as the model sees it
    zchannels: int
    widths: dict[int, int] = field(hash=False)  # nz -> reswidth
    nz: int
    batch: int  # images a step, of all processes together
    dropout: float
    decay: float  # of the learning rate, per step
    decay_after: int  # steps
    test_every: int  # epochs
    conditional_scale: bool = False
    crops: int | None = None  # of each photograph in an epoch; None: the images are used whole


_MNIST = Settings(
    dataset="mnist",
    xs=(1, 32, 32),  # 28x28, zero-padded by 2
    zchannels=1,
    widths={1: 64, 2: 63, 4: 62, 8: 61},
    nz=8,
    batch=128,
    dropout=0.2,
    decay=0.9995,
    decay_after=0,
    test_every=5,
)
_CIFAR = Settings(
    dataset="cifar",
    xs=(3, 32, 32),
    zchannels=8,
    widths={1: 256, 2: 255, 4: 254, 8: 252},
    nz=8,
    batch=16,
    dropout=0.3,
    decay=0.999995,
    decay_after=0,
    test_every=5,
)
_IMAGENET = Settings(
    dataset="imagenet",
    xs=(3, 32, 32),
    zchannels=8,
    widths={1: 256, 2: 255, 4: 254},
    nz=4,
    batch=128,
    dropout=0.0,
    decay=0.999995,
    decay_after=100_000,
    test_every=1,
)
_IMAGENETCROP = replace(_IMAGENET, dataset="imagenetcrop", widths={4: 256}, conditional_scale=True, crops=1)
SETTINGS = {settings.dataset: settings for settings in (_MNIST, _CIFAR, _IMAGENET, _IMAGENETCROP)}
