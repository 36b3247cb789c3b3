"""Networks that give every image one class, one file each."""
