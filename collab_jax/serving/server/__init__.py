"""The caption server: handshakes, queue, scheduler, gRPC service."""
