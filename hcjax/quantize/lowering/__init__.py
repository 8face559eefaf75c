"""From ops in float to the integer program."""
