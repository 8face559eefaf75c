"""What a person sees of a run: progress, metrics files, tables and pictures.

In come plain numbers and NumPy arrays; out go terminal text and files in the workdir. Nothing
here imports jax or knows a training step, and the heavy libraries (tqdm, tensorboardX,
matplotlib) are imported by the function that needs them.
"""
