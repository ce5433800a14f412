"""Number formats of training: what a forward pass computes in; weights stay float32."""

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum

import torch


class Precision(StrEnum):
    """The format of the forward pass's arithmetic, by torch's automatic casting."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"  # with loss scaling
    AUTO = "auto"  # bf16 on GPUs that have it, else fp32
    AMP = "amp"  # the official code: fp16 with loss scaling on GPUs, fp32 on CPUs

    def on(self, device: torch.device) -> "Precision":
        """Return the plain format that this means on `device`."""
        if self is Precision.AUTO:
            # Emulated bf16 is slower than fp32, so only native support counts.
            native = device.type == "cuda" and torch.cuda.is_bf16_supported(
                including_emulation=False
            )
            return Precision.BF16 if native else Precision.FP32
        if self is Precision.AMP:
            return Precision.FP16 if device.type == "cuda" else Precision.FP32
        return self

    def casting(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which a forward pass computes in this format."""
        formats = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
        plain = self.on(device)
        if plain is Precision.FP32:
            return nullcontext()
        return torch.autocast(device.type, dtype=formats[plain])

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return a scaler of the loss, which does nothing but for fp16."""
        return torch.amp.GradScaler(device.type, enabled=self.on(device) is Precision.FP16)
