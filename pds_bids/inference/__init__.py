"""One subject: arrays, grid, weights and seed in, arrays out."""
