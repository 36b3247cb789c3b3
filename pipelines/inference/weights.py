"""How the weights in a model folder are called."""


def weights_name(fold: int, seed: int) -> str:
    """File name of the weights of one training."""
    return f"fold{fold}_seed{seed}.safetensors"
