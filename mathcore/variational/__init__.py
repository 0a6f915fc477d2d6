"""Variational models of chapter 2: VAE, hierarchical VAE and DDPM, trainable and in closed form."""
