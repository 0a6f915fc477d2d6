"""Score-based models of chapter 3: energies and scores, score matching in all its forms, denoising, Langevin sampling."""
