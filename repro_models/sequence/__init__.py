"""Networks that say of every token of a sequence what comes next, one file each."""
