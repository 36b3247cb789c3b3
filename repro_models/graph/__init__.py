"""Networks that give every node of a graph a class, one file each."""
