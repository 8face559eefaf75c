"""Devices: platforms, hosts, locks, memory, and facts about the machine."""
