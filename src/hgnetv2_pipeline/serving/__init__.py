"""Exported models behind HTTP and gRPC: Open Inference Protocol v2, pictures to classes, a page."""
