"""``python -m hgnetv2_pipeline``: the same as ``kedro run`` in the project's folder."""

from hgnetv2_pipeline.cli import run

if __name__ == "__main__":
    run()
