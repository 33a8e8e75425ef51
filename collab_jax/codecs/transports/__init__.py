"""Packetizers: messages of a codec over a channel."""
