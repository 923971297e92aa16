"""What a machine tells of itself while it computes: cores, clocks, temperatures, throttling, power; and their settings.

All of it is read from files and tools that Linux documents. What a system does not tell, or tells as garbage, is None
or left out; nothing is guessed. ``root`` is where ``proc`` and ``sys`` are, for tests and chroots.
"""
