"""What a case is, where cases come from, whether they are sound, how they are split."""
