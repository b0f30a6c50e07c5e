"""A review of made-up images, and its page in a thread: what the tests of it share."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from PIL import Image

from hgnetv2_pipeline.data.index import samples_frame
from hgnetv2_pipeline.serving.review.app import HOST, review_app
from hgnetv2_pipeline.serving.review.session import ReviewItem, ReviewList, ReviewSession

CLASSES = ["cat", "dog", "gnu"]
COLOURS = ("firebrick", "seagreen", "steelblue", "goldenrod", "purple", "teal")


def some_session(folder: Path) -> ReviewSession:
    """Pairs in doubt, mined images and a doubted label; a list that was not made."""
    root = folder / "raw"
    root.mkdir(parents=True)
    names = [f"images/pool/{colour}.png" for colour in COLOURS]
    for name, colour in zip(names, COLOURS, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 120), colour).save(root / name)
    rows = samples_frame((name, name, -1, 1, None, 160, 120, "PNG", name) for name in names)
    lists = [
        ReviewList("duplicates", "duplicates", "Doubtful duplicates", "Is it the same picture?",
                   [ReviewItem(names[0], twin=names[1], about="phash, 8 bits apart")]),
        ReviewList("mined", "mined", "Mined, at random", "Is it of that class?",
                   [ReviewItem(name, shown="cat", score="0.5") for name in names[1:5]]),
        ReviewList("labels", "labels", "Suspected label errors", "Is the label right?",
                   [ReviewItem(names[5], shown="dog", suggested="gnu", about="doubt 0.98")]),
        ReviewList("next", "label_next", "To label next", "Which class is it?",
                   missing="Made by kedro run --pipeline label_next"),
    ]  # fmt: skip
    examples = {"cat": names[:2], "dog": names[2:3]}
    return ReviewSession("mine", CLASSES, lists, rows, root, folder / "review.csv", examples)


@contextmanager
def review_server(session: ReviewSession) -> Iterator[str]:
    """The address of the page, token and all."""
    token = "t" * 24
    config = uvicorn.Config(review_app(session, token), log_config=None, ws="none", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}/?token={token}"
        finally:
            server.should_exit = True
            thread.join()
