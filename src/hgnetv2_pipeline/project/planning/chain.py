"""What a chain will cost, before any of it: one table, from a few real steps of each part.

What is not there yet is replaced by a stand-in, which the table names: the mined list by its number
of images, a teacher that is yet to be trained by fresh weights of its kind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.lists import Lists, count_rows
from hgnetv2_pipeline.project.mining.mapping import SETS, pool_map_result
from hgnetv2_pipeline.project.mining.scoring import images_to_score
from hgnetv2_pipeline.project.params import (
    ComparisonParams,
    EvaluationParams,
    MiningParams,
    TeacherLogitsParams,
    TeacherParams,
)
from hgnetv2_pipeline.project.planning.table import Row, as_text, row_of
from hgnetv2_pipeline.project.planning.teaching import stand_ins, teacher_rate
from hgnetv2_pipeline.project.results import Result, Reuse
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import RECORD, TeacherRecord, read_teacher
from hgnetv2_pipeline.project.training.arms import Recipes, arm_folders, finished_arms
from hgnetv2_pipeline.project.training.members import member_spec
from hgnetv2_pipeline.project.training.runs import (
    begin_run,
    logits_store,
    make_run_spec,
    processes_of_each,
)
from hgnetv2_pipeline.training.config import TeacherConfig, TrainConfig

if TYPE_CHECKING:
    from hgnetv2_pipeline.project.sweep.runs import SweepRun
    from hgnetv2_pipeline.training.plan import Plan
    from hgnetv2_pipeline.training.stored_logits.speed import Rate

SSLD = ("ssld_stage1", "ssld_stage2")
PARTS = ("train_teacher", "mining", *SSLD, "train", "finetune", "comparison")
# A row of scores as it is on disk (116 on the sample), and what a feature of a teacher with 2,048
# of them adds.
SCORE_BYTES, FEATURE_BYTES = 120, 4096
_MAP = "mining: map of the pool"
_EQUAL_STEPS = "supervised_equal_steps"
# By which recipe the comparison's trainings are timed.
_RECIPE_OF = {
    "supervised": "train", _EQUAL_STEPS: "train", "stage1": "ssld_stage1",
    "stage1_unmined": "ssld_stage1", "stage2": "ssld_stage2",
}  # fmt: skip
_LABELS = {
    "name": "label_smoothing", "label_smoothing": 0.0, "temperature": 1.0, "gt_weight": 0.0,
    "asymmetric": None, "gamma": None, "class_weights": None,
}  # fmt: skip


def plan_chain(params: Mapping[str, Any], parts: Collection[str]) -> str:
    """The table for ``parts`` of the chain, of validated parameters with their ``identity``."""
    return _Chain(params).table(parts)


def plan_sweep(runs: Sequence[SweepRun]) -> str:
    """The table for all ``runs`` of a sweep: what they share once, then the trainings of each."""
    shared: list[Row] = []
    rows: list[Row] = []
    assumed: list[str] = []
    chains = [_Chain(each.params) for each in runs]
    for each, chain in zip(runs, chains, strict=True):
        if not rows and len(each.stages) > 1:
            shared = chain.common_rows()
            rows += shared
        else:
            chain.rows += shared  # from which it follows whether its own must be made again
        for stage in each.stages:
            row = chain.training_row(stage)
            chain.rows.append(row)
            rows.append(replace(row, part=f"{each.name}, {stage}"))
        assumed += chain.assumed
    slow = chains[0].slow_precisions(runs[0].stages)
    return as_text(rows, [*dict.fromkeys(assumed)], chains[0].free_disk(), slow)


class _Chain:
    def __init__(self, params: Mapping[str, Any]) -> None:
        self.run = Run.model_validate(params["this_run"])
        self.identity, self.device = self.run.identity, self.run.device
        self.teaching = TeacherParams.model_validate(params["train_teacher"])
        self.mining = MiningParams.model_validate(params["mining"])
        self.logits = TeacherLogitsParams.model_validate(params["teacher_logits"])
        self.evaluation = EvaluationParams.model_validate(params["evaluation"])
        self.comparison = ComparisonParams.model_validate(params["comparison"])
        self.recipes = {
            name: TrainConfig.model_validate(params[name])
            for name in ("ssld_stage1", "ssld_stage2", "train", "finetune")
        }
        self.lists = Lists(self.identity.folder("lists"))
        self.reuse = Reuse(self.identity.project, self.run.redo, dry=True)
        self.assumed: list[str] = []
        self.rows: list[Row] = []
        self.plans: dict[str, Plan] = {}
        self.steps = 0  # of the whole SSLD run: those done, and those to do
        self.labelled = count_rows(self.lists.index("train"))
        mined = self.identity.folder("mining") / "train_mined.parquet"
        self.mined = mined if mined.is_file() else None

    def table(self, parts: Collection[str]) -> str:
        rows = self.rows
        if "train_teacher" in parts:
            rows.append(self._members())
        if "mining" in parts:
            rows += [self._scoring(), self._mapping()]
        if "ssld_stage1" in parts:
            if self.logits.source != "online":
                rows.append(self._storing())
            rows.append(self.training_row("ssld_stage1"))
        rows += [self.training_row(n) for n in ("ssld_stage2", "train", "finetune") if n in parts]
        if "comparison" in parts:
            rows.append(self._arms())
        return as_text(rows, self.assumed, self.free_disk(), self.slow_precisions(parts))

    def common_rows(self) -> list[Row]:
        """What the students of all variants share: teacher, scores and stored answers."""
        self.rows.append(self._members())
        self.rows += [self._scoring(), self._mapping()]
        if self.logits.source != "online":
            self.rows.append(self._storing())
        return list(self.rows)

    # The parts.

    def _members(self) -> Row:
        if self.teaching.source:
            return Row("teacher", "ready weights: " + ", ".join(self.teaching.source))
        if not self.teaching.members:
            images = count_rows(self.lists.index("train"))
            fitted = " and ".join(self.teaching.probes)
            wanted = self.teaching.self_training
            most = min(wanted.images, sum(one.images for one in self.lists.pool_sources()))
            some = f", then to at most {most:,} of the pool" if wanted.rounds else ""
            return Row(
                "teacher", f"fitted in seconds to {images:,} labelled images{some}: {fitted}"
            )
        from hgnetv2_pipeline.training.plan import plan_run

        jobs, waiting = self.teaching.jobs, []
        processes = processes_of_each(self.run.distributed, self.device, jobs=jobs)
        for number in range(self.teaching.members):
            spec = member_spec(self.run, self.teaching, number)
            spec, work = begin_run(self.reuse, spec, None, processes=processes)
            if not isinstance(work, Result):
                waiting.append(spec)
            else:
                self.steps += _steps(spec.out)
        if not waiting:
            return Row("teacher", "finished")
        plan = plan_run(waiting[0], processes=processes)
        self.steps += plan.steps * len(waiting)
        if jobs > 1:
            self.assumed.append(f"{jobs} teacher members side by side are as fast as one alone")
        rounds = -(-len(waiting) // jobs)
        return row_of(f"teacher, {len(waiting)} members", plan, times=rounds, copies=len(waiting))

    def _scoring(self) -> Row:
        pool = sum(source.images for source in self.lists.pool_sources())
        teacher, left = self._teacher(), pool
        if teacher is not None and not self._made_again():
            left = images_to_score(self.run, self.mining, self.lists, teacher, self.reuse)
        if not left:
            return Row("mining: scores", "finished")
        size = SCORE_BYTES + FEATURE_BYTES * self.mining.features
        state = f"to do, {pool - left:,} of {pool:,} reused" if left < pool else "to do"
        return replace(self._looking_at(left, "mining: scores", state), disk=left * size)

    def _mapping(self) -> Row:
        """The images of the map, which the teacher looks at once more."""
        teacher, folder = self._teacher(), self.identity.folder("pool_map")
        there = self.mined and (folder / "manifest.json").is_file()
        if teacher and there and not self._made_again():
            spec = pool_map_result(
                self.run, self.mining, self.lists, teacher, self.identity.folder("scores"),
                self.identity.folder("mining"),
            )  # fmt: skip
            if isinstance(self.reuse.begin(spec), Result):
                return Row(_MAP, "finished, if the list stays")
        most = self.mining.map_images
        shown = [min(count_rows(self.lists.index(name)), most // 3) for name in SETS]
        if not self.mining.features:  # what the teacher saw in the pool is not kept
            pool = sum(source.images for source in self.lists.pool_sources())
            shown = [min(most, sum(shown) + pool)]
        return self._looking_at(sum(shown), _MAP, "to do")

    def _looking_at(self, images: int, part: str, state: str) -> Row:
        rate = self._score_rate
        return Row(
            part, state, images=images, seconds=images * rate.seconds / self.mining.processes,
            waiting=rate.loader_share, memory=self._memory(),
        )  # fmt: skip

    @cached_property
    def _score_rate(self) -> Rate:
        return self._rate(
            self.lists.index("pool"),
            batch_size=self.mining.batch_size,
            workers=self.mining.workers,
        )

    def _storing(self) -> Row:
        from hgnetv2_pipeline.input.teacher_logits import record_dtype

        folder, params = self.identity.folder("teacher_logits"), self.logits
        if (folder / "manifest.json").is_file() and self.mined and not self._made_again():
            return Row("teacher logits", "finished, if the list stays")
        images = self._stage1_images()
        views = params.views if params.source == "stored" else 1
        rate = self._rate(
            self.mined or self.lists.index("train"),
            batch_size=params.batch_size,
            workers=params.workers,
            amp=params.amp,
            views=views,
        )
        classes = len(self.lists.classes)
        answers = images * views
        record = record_dtype(classes, min(params.topk, classes)).itemsize
        return Row(
            f"teacher logits, {views} views" if views > 1 else "teacher logits, images",
            "to do",
            images=answers,
            seconds=answers * rate.seconds / self.run.distributed.processes_here(self.device),
            waiting=rate.loader_share,
            disk=answers * record,
            memory=self._memory(),
        )

    def training_row(self, name: str) -> Row:
        """One training of a student."""
        if self._finished(name):
            self.steps += _steps(self.identity.folder(name)) if name in SSLD else 0
            return Row(name, "finished")
        self.steps += self._plan(name).steps if name in SSLD else 0
        return row_of(name, self._plan(name))

    def _arms(self) -> Row:
        """The further trainings of the comparison, from the time a step of their kind takes."""
        due = self._due_arms()
        if not due:
            return Row("comparison", "finished")
        runs = []
        for arm in due:
            plan = self._plan(_RECIPE_OF[arm])
            runs.append((plan, max(self.steps, 1) if arm == _EQUAL_STEPS else plan.steps))
        seconds = sum(plan.seconds * steps / plan.steps for plan, steps in runs)
        return Row(
            f"comparison, {len(runs)} runs",
            "to do",
            steps=sum(steps for _, steps in runs),
            seconds=seconds / self.comparison.jobs,
            disk=sum(plan.disk_bytes for plan, _ in runs),
            memory=max((plan.memory_bytes for plan, _ in runs), default=0),
        )

    def _due_arms(self) -> list[str]:
        """Names of the comparison's unfinished trainings, one for each of their seeds."""
        made = [self.identity.folder(name) / "result.json" for name in SSLD]
        config = self.recipes
        recipes = Recipes(
            self.comparison, self.teaching, config["train"], config["ssld_stage1"],
            config["ssld_stage2"], self.logits,
        )  # fmt: skip
        finished = finished_arms(
            self.run,
            self.reuse,
            recipes,
            chain_finished=not self._made_again()
            and self.mined is not None
            and self._teacher() is not None
            and all(path.is_file() for path in made),
        )
        wanted = arm_folders(self.run, self.comparison)
        return [name for name, seed, _ in wanted if (name, seed) not in finished]

    # What they need.

    def _stage1_images(self) -> int:
        if self.mined is not None:
            return count_rows(self.mined)
        from hgnetv2_pipeline.mining.selection import default_target, typical_target

        pool = sum(source.images for source in self.lists.pool_sources())
        classes = len(self.lists.classes)
        if self.mining.k is not None:
            mined, rule = min(pool, self.mining.k * classes), f"mining.k={self.mining.k} per class"
        elif self.mining.target_total is not None:
            mined = min(pool, self.mining.target_total)
            rule = f"mining.target_total={self.mining.target_total}"
        elif self.mining.rank_by == "typicality":
            mined = typical_target(pool, self.mining.min_conf)
            rule = f"mining.min_conf={self.mining.min_conf}, if the pool is like them; else fewer"
        else:
            mined, rule = default_target(pool, classes), "the published share of the pool"
        self._assume(
            f"stage 1 has {self.labelled + mined:,} images, {self.labelled:,} labelled and "
            f"{mined:,} mined ({rule}); its steps are timed on the labelled ones"
        )
        return self.labelled + mined

    def _finished(self, name: str) -> bool:
        """Whether the run of ``name`` is finished as the chain would make it now."""
        distilled = name in SSLD
        teacher = self._teacher() if distilled else None
        config = self.recipes[name]
        start = config.init
        ready = (
            start == "scratch"
            or (self.identity.run_folder(start) / "student.safetensors").is_file()
        )
        if not ready or (distilled and (teacher is None or self.mined is None)):
            return False
        if (distilled or start != "scratch") and self._made_again():
            return False
        stored = logits_store(self.run, self.logits) if distilled else None
        if stored is not None and not (stored.folder / "manifest.json").is_file():
            return False
        spec = make_run_spec(
            self.run, config, pipeline=name, train=self._list_of(name), teacher=teacher,
            stored=stored,
        )  # fmt: skip
        processes = self.run.distributed.processes(self.device)
        return isinstance(begin_run(self.reuse, spec, teacher, processes=processes)[1], Result)

    def _list_of(self, name: str) -> Path:
        if name == "ssld_stage1" and self.mined is not None:
            return self.mined
        return self.lists.index("train")

    def _plan(self, name: str) -> Plan:
        """The plan of a student's run, from fresh weights: those it starts from cost no time."""
        if name not in self.plans:
            self.plans[name] = self._timed_plan(name)
        return self.plans[name]

    def _timed_plan(self, name: str) -> Plan:
        from hgnetv2_pipeline.training.plan import plan_run

        config = self.recipes[name].model_copy(update={"init": "scratch"})
        teacher = None
        if name in SSLD:
            if self.logits.source != "online":
                # A step that reads answers costs as much as one that reads labels.
                loss = config.loss.model_copy(update=_LABELS)
                config = config.model_copy(update={"loss": loss, "class_balance": "none"})
            else:
                teacher = self._teacher() or self._stand_in()
        train = self._list_of(name) if teacher else self.lists.index("train")
        spec = make_run_spec(self.run, config, pipeline=name, train=train, teacher=teacher)
        images = self._stage1_images() if name == "ssld_stage1" else None
        return plan_run(spec, processes=self.run.distributed.processes(self.device), images=images)

    def _teacher(self) -> TeacherRecord | None:
        folder = self.identity.folder("train_teacher")
        return read_teacher(folder, self.identity) if (folder / RECORD).is_file() else None

    def _stand_in(self) -> TeacherRecord:
        from hgnetv2_pipeline.teacher.probing import short_side

        members = stand_ins(self.teaching, short_side(self.lists.frame("train")))
        named = " + ".join(name.removeprefix("scratch:").removeprefix("probe:") for name in members)
        self._assume(f"the teacher is as fast as fresh weights of {named}")
        return TeacherRecord(TeacherConfig(members=members, bn=self.teaching.bn), Path())

    def _rate(self, index: Path, **how: Any) -> Rate:
        return teacher_rate(
            self.run,
            (self._teacher() or self._stand_in()).config,
            index,
            recipe=self.recipes["ssld_stage1"],
            **how,
        )

    def _made_again(self) -> bool:
        """Whether something that the next part follows from is yet to be made."""
        return any(row.seconds for row in self.rows if row.part != _MAP)

    def _assume(self, what: str) -> None:
        if what not in self.assumed:
            self.assumed.append(what)

    def _memory(self) -> int:
        from hgnetv2_pipeline.devices import choose_device
        from hgnetv2_pipeline.training.plan import peak_memory

        return peak_memory(choose_device(self.device))

    def slow_precisions(self, parts: Collection[str]) -> list[str]:
        """The precisions chosen for ``parts`` that this machine is slower in than in float32."""
        from hgnetv2_pipeline.devices import choose_device
        from hgnetv2_pipeline.processor import slow_precision
        from hgnetv2_pipeline.training.plan import slow_amp

        device = choose_device(self.device)
        advice = [
            slow_amp(self.recipes[name], name, device) for name in self.recipes if name in parts
        ]
        if "train_teacher" in parts and not self.teaching.source:
            advice.append(slow_amp(self.teaching.recipe, "train_teacher.recipe", device))
        others: dict[str, tuple[str, str]] = {}
        if "ssld_stage1" in parts and self.logits.source != "online":
            others["teacher_logits.amp"] = self.logits.amp, "off"
        if "evaluation" in parts:
            others["evaluation.precision"] = self.evaluation.precision, "fp32"
        for place, (precision, instead) in others.items():
            why = slow_precision(precision, device.type)
            advice.append(why and f"{place}={precision}: {why}; set {place}={instead}")
        return [line for line in advice if line]

    def free_disk(self) -> int:
        from hgnetv2_pipeline.exits import free_bytes

        return free_bytes(self.identity.folder("models"))


def _steps(run: Path) -> int:
    return int(read_json(run / "result.json")["steps"])
