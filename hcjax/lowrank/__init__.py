"""Low-rank factorization: layers replaced by sequences of thinner ones."""
