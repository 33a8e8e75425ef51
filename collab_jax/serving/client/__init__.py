"""The edge client: encodes images, sends messages, returns captions."""
