"""Random changes of a training patch, drawn and applied apart."""
