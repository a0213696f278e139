"""How the layers that make tokens begin: what goes in with a scale near one comes out with a scale near one.

Torch's default lets each layer shrink its input to about a third or less. Three convolutions later the tokens drown in
what the first attention adds to all of them alike, and a picture encoder learns several times slower.
"""

from torch import nn


def keep_scale(module: nn.Module) -> None:
    """Draw the weights of every convolution and linear layer in `module` with deviation sqrt(2 / fan_in) where a GELU
    follows (He et al. 2015, equation 10; convolutions) and sqrt(1 / fan_in) where none does (LeCun et al. 1998, section
    4.6; linear layers). Biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            gain = "relu" if isinstance(layer, nn.Conv2d) else "linear"
            nn.init.kaiming_normal_(layer.weight, nonlinearity=gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
