"""What a chain of pipelines will cost, before any of it."""

from __future__ import annotations

from hgnetv2_pipeline.pipelines.planning.chain import PARTS, plan_chain

__all__ = ["PARTS", "plan_chain"]
