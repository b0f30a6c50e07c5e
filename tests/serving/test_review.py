"""The review page: who is let in, what is shown, and that no decision is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from review_cases import review_server, some_session

from hgnetv2_pipeline.data.decisions import read_decisions
from hgnetv2_pipeline.data.index import samples_frame
from hgnetv2_pipeline.serving.review.app import review_app
from hgnetv2_pipeline.serving.review.session import ReviewItem, ReviewList, ReviewSession
from in_browser import run_in_browser

testclient = pytest.importorskip("starlette.testclient")
TOKEN = "t" * 24
ODD = '<img src=x onerror=1>".png'


@pytest.fixture
def session(tmp_path: Path) -> ReviewSession:
    root = tmp_path / "raw"
    root.mkdir()
    for name, size in (("a.png", 8), ("b.png", 2000), (ODD, 8)):
        Image.new("RGB", (size, size), "red").save(root / name, "PNG")
    Image.new("RGB", (8, 8)).save(root / "secret.png")
    rows = samples_frame(
        (name, name, -1, 1, None, 8, 8, "PNG", name) for name in ("a.png", "b.png", ODD)
    )
    items = [ReviewItem(name, shown="cat", score="0.5") for name in ("a.png", "b.png", ODD)]
    lists = [ReviewList("mined", "mined", "Mined", "Right?", items)]
    return ReviewSession("mine", ["cat", "dog"], lists, rows, root, root / "review.csv")


def client(session: ReviewSession, token: str = TOKEN) -> object:
    made = testclient.TestClient(review_app(session, TOKEN), base_url="http://127.0.0.1:9")
    made.get("/", params={"token": token})
    return made


def asked(now: list[object], was: list[object], item: int = 0) -> dict[str, object]:
    return {"list": "mined", "item": item, "now": now, "was": was}


NONE: list[object] = ["review", None]


def test_without_the_token_nothing_is_told(session: ReviewSession) -> None:
    for stranger in (client(session, "wrong"), client(session, "")):
        for path in ("/", "/contents.json", "/state.json", "/picture/0", "/page.js"):
            assert stranger.get(path).status_code == 403  # type: ignore[attr-defined]
        assert stranger.post("/decide", json={}).status_code == 403  # type: ignore[attr-defined]
    assert client(session).get("/contents.json").status_code == 200  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"host": "evil.example"}, 400), ({"origin": "http://evil.example"}, 403),
     ({"host": "localhost:1234"}, 200)],
)  # fmt: skip
def test_other_names_and_other_pages_are_turned_away(
    session: ReviewSession, headers: dict[str, str], status: int
) -> None:
    known = client(session)
    cookie = "; ".join(f"{name}={value}" for name, value in known.cookies.items())  # type: ignore[attr-defined]
    answer = known.get("/state.json", headers={**headers, "cookie": cookie})  # type: ignore[attr-defined]
    assert answer.status_code == status


@pytest.mark.parametrize(
    "path", ["/picture/3", "/picture/-1", "/picture/secret.png", "/picture/..%2Fsecret.png",
             "/..%2f..%2fsecret.png", "/page/../secret.png"],
)  # fmt: skip
def test_only_images_of_the_lists_are_served(session: ReviewSession, path: str) -> None:
    assert client(session).get(path).status_code in (400, 404)  # type: ignore[attr-defined]


def test_large_pictures_are_sent_small_and_odd_names_as_text(session: ReviewSession) -> None:
    known = client(session)
    kinds = [known.get(f"/picture/{n}").headers["content-type"] for n in range(3)]  # type: ignore[attr-defined]
    assert sorted(kinds) == ["image/jpeg", "image/png", "image/png"]
    contents = known.get("/contents.json")  # type: ignore[attr-defined]
    assert contents.headers["content-type"] == "application/json"
    assert contents.json()["lists"][0]["items"][2]["key"] == ODD
    page = known.get("/")  # type: ignore[attr-defined]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")


def test_two_clients_decide_undo_and_are_told_of_a_conflict(session: ReviewSession) -> None:
    one, two = client(session), client(session)
    assert one.post("/decide", json=asked(["relabel", 1], NONE)).status_code == 200  # type: ignore[attr-defined]
    late = two.post("/decide", json=asked(["keep", None], NONE))  # type: ignore[attr-defined]
    assert late.status_code == 409 and "relabel dog" in late.json()["error"]
    assert late.json()["decided"] == {"mined": {"0": ["relabel", 1]}}
    assert two.post("/decide", json=asked(["keep", None], NONE, 2)).status_code == 200  # type: ignore[attr-defined]
    rows = read_decisions(session.file, session.classes).set_index("key")
    assert rows.loc["a.png", "label"] == "dog" and rows.loc[ODD, "decision"] == "keep"
    undo = one.post("/decide", json=asked(NONE, ["relabel", 1]))  # type: ignore[attr-defined]
    assert undo.json()["decided"] == {"mined": {"2": ["keep", None]}}


@pytest.mark.parametrize(
    "said", [{}, [], asked(["maybe", None], NONE), asked(["relabel", 2], NONE),
             asked(["relabel", None], NONE), asked(["keep", None], NONE, 3),
             asked(["keep", None], NONE) | {"list": "../x"}],
)  # fmt: skip
def test_what_is_not_understood_writes_nothing(session: ReviewSession, said: object) -> None:
    assert client(session).post("/decide", json=said).status_code == 400  # type: ignore[attr-defined]
    assert not session.file.exists()


@pytest.mark.clients
def test_keys_keep_remove_relabel_move_and_undo(tmp_path: Path) -> None:
    session = some_session(tmp_path)
    with review_server(session) as address:
        *steps, quiet = run_in_browser(
            "review_keys", address,
            "Mined=Control+k k x ArrowRight ArrowLeft 2 / k Escape / 'gn' Enter u u",
            "Suspected=s", "Doubtful=2 k reload",
        )  # fmt: skip
    assert quiet == {"foreign": [], "said": []}
    assert not any(step["error"] for step in steps), steps
    decided = {at: step["decided"].get("mined", {}) for at, step in enumerate(steps)}
    kept, removed = {"0": ["keep", None]}, {"0": ["keep", None], "1": ["remove", None]}
    dog = removed | {"2": ["relabel", 1]}
    shown = [step["key"].rpartition("/")[2].removesuffix(".png") for step in steps]
    wanted = [
        ({}, "seagreen"), (kept, "steelblue"), (removed, "goldenrod"),  # Control+k is the browser's
        (removed, "purple"), (removed, "goldenrod"), (dog, "purple"),
        (dog, "purple"), (dog, "purple"), (dog, "purple"),  # k in the search field is a letter
        (dog, "purple"), (dog, "purple"), (dog | {"3": ["relabel", 2]}, "purple"),
        (dog, "purple"), (removed, "goldenrod"),
    ]  # fmt: skip
    for at, (state, picture) in enumerate(wanted):
        assert (decided[at], shown[at]) == (state, picture), (at, steps[at])
    assert steps[6]["focus"] == "name" and steps[8]["focus"] != "name"
    assert (steps[11]["said"], steps[11]["progress"]) == ("relabelled: gnu", "4 of 4 decided")
    suggested, no_class, pair, again = steps[14:]
    assert suggested["decided"]["labels"] == {"0": ["relabel", 2]}
    assert no_class["decided"]["duplicates"] == {}  # a pair has no class to be given
    assert pair["decided"]["duplicates"] == {"0": ["keep", None]}
    assert again["decided"] == pair["decided"]
    rows = read_decisions(session.file, session.classes).set_index("key")["decision"]
    assert sorted(rows) == ["keep", "keep", "relabel", "remove"]
