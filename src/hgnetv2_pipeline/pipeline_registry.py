"""All pipelines by name. Explicit, not found by searching: Kedro loads only the requested folders
when it searches, and a pipeline that is the sum of others would then miss its parts."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from hgnetv2_pipeline.pipelines.best import pipeline as best
from hgnetv2_pipeline.pipelines.comparison import pipeline as comparison
from hgnetv2_pipeline.pipelines.evaluation import pipeline as evaluation
from hgnetv2_pipeline.pipelines.export import pipeline as export
from hgnetv2_pipeline.pipelines.import_weights import pipeline as import_weights
from hgnetv2_pipeline.pipelines.ingestion import pipeline as ingestion
from hgnetv2_pipeline.pipelines.label_errors import pipeline as label_errors
from hgnetv2_pipeline.pipelines.label_next import pipeline as label_next
from hgnetv2_pipeline.pipelines.latency import pipeline as latency
from hgnetv2_pipeline.pipelines.mining import pipeline as mining
from hgnetv2_pipeline.pipelines.prediction import pipeline as prediction
from hgnetv2_pipeline.pipelines.reporting import pipeline as reporting
from hgnetv2_pipeline.pipelines.sweep import pipeline as sweep
from hgnetv2_pipeline.pipelines.train_teacher import pipeline as train_teacher
from hgnetv2_pipeline.pipelines.training.pipeline import teacher_logits_pipeline, training_pipeline
from hgnetv2_pipeline.project.node_selection import SUPERVISED, SUPERVISED_SWEEP


def register_pipelines() -> dict[str, Pipeline]:
    """Each pipeline with its upstream, so that every name runs alone on a fresh clone."""
    ingested = ingestion.create_pipeline()
    imported = import_weights.create_pipeline()
    teacher = ingested + train_teacher.create_pipeline()
    mined = teacher + mining.create_pipeline()
    taught = {"teacher": "train_teacher.teacher", "stored": "ssld_stage1.teacher_logits"}
    answered = mined + teacher_logits_pipeline()
    stage1 = answered + training_pipeline("ssld_stage1", mined="mining.result", **taught)
    stage2 = stage1 + training_pipeline("ssld_stage2", start="ssld_stage1.run", **taught)
    compared = stage2 + comparison.create_pipeline()
    chosen = compared + best.create_pipeline()
    evaluated = chosen + evaluation.create_pipeline()
    exported = chosen + export.create_pipeline()
    timed = exported + latency.create_pipeline()
    predicted = exported + prediction.create_pipeline()
    # Where a model is evaluated anyway, that comes before its card is written.
    reported = evaluated + export.create_pipeline(measured="evaluation.results")
    reported += latency.create_pipeline() + prediction.create_pipeline()
    reported += reporting.create_pipeline("mining.report", "comparison.results")
    trained = ingested + training_pipeline("train")
    # The chain without a pool (node_selection.chain_of).
    supervised = trained + best.create_pipeline("train.run")
    supervised += evaluation.create_pipeline("train.run")
    supervised += export.create_pipeline("train.run", measured="evaluation.results")
    supervised += latency.create_pipeline() + prediction.create_pipeline()
    supervised += reporting.create_pipeline()
    return {
        "ingestion": ingested,
        "import_weights": imported,
        "train_teacher": teacher,
        "mining": mined,
        "label_errors": ingested + label_errors.create_pipeline(),
        "label_next": mined + label_next.create_pipeline(),
        "ssld_stage1": stage1,
        "ssld_stage2": stage2,
        "train": trained,
        # Both of what it may start from; the command line leaves out the one that is not named.
        "finetune": stage1
        + imported
        + training_pipeline("finetune", start="ssld_stage1.run", imported="import_weights.weights"),
        "best": chosen,
        "evaluation": evaluated,
        "prediction": predicted,
        "export": exported,
        "latency": timed,
        "comparison": compared,
        "reporting": reported,
        "sweep": answered + sweep.create_pipeline("mining.result", *taught.values()),
        SUPERVISED_SWEEP: ingested + sweep.create_pipeline(),
        "__default__": reported,
        SUPERVISED: supervised,
    }
