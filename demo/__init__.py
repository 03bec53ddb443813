"""The embedded host: a small trained model, sampled with and without the cache."""
