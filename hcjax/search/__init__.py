"""How far each layer can go."""
