"""The resize that networks for large images have in front."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate


class Resize(nn.Module):
    """Bilinear, with antialiasing where the image shrinks, as torchvision's.

    It is part of the network, after normalisation, so that triggers are stamped at the
    images' own size.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c s s"]:
        size = (self.side, self.side)
        if images.shape[-2:] == size:
            return images
        return interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
