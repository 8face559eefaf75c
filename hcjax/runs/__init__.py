"""What runs leave on the disk, read back."""
