"""What a training would do on TPUs that are not here."""
