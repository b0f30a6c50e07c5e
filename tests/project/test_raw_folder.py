"""The folder below which all images of a dataset are found: what is linked there, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.ingestion.raw import link_images
from hgnetv2_pipeline.project.params import DataParams
from run_params import parameters
from tiny_project import identity


@pytest.mark.parametrize(("name", "refused"), [("pool", True), ("unlabelled", False)])
def test_a_pool_where_links_to_pools_are_put_is_refused_and_left_as_it_is(
    name: str, refused: bool, tmp_path: Path
) -> None:
    who = identity(tmp_path)
    labelled, pool = (who.folder("raw") / each for each in ("labelled", name))
    for folder in (labelled, pool):
        folder.mkdir(parents=True)
    (pool / "1.png").touch()
    own = {"layout": "folders", "root": str(labelled), "pool": [str(pool)]}
    data = DataParams.model_validate({**parameters()["data"], **own})
    if refused:
        with pytest.raises(DataError, match=r"data\.pool: .*another\s+name"):
            link_images(who, data)
    else:
        link_images(who, data)
        assert (who.folder("raw") / "pool" / "unlabelled").resolve() == pool
    assert [path.name for path in pool.iterdir()] == ["1.png"]
