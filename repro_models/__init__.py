"""Networks and losses in plain torch, each written from its paper."""
