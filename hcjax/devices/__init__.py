"""Where things run: platforms, hosts, locks, memory, what the machine is."""
