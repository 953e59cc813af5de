"""Torch modules: tensor in, tensor out."""
