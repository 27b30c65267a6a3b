"""Knows what people type who come from other tools, and what stands for it here.

The tools are the command lines of ultralytics, transformers, detectron2, mmsegmentation, FiftyOne, Ray and Unix.
"""

from collections.abc import Container, Iterable, Mapping

from m2f_batch.messages.near_miss import did_you_mean

# Each word leads to options ("--model"), arguments ("INPUT") or config keys ("train.seed"), some with the value that is
# meant ("--device=cpu"), where % is a number that was typed. The first counts that the command has. Of a word that
# leads nowhere nothing is guessed.
WORDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "model_name",
            "model_name_or_path",
            "model_path",
            "model_id",
            "weights",
            "checkpoint",
            "ckpt",
            "m",
        ),
        ("--model",),
    ),
    **dict.fromkeys(("pretrained", "load_from", "init_from"), ("--model",)),
    **dict.fromkeys(
        ("source", "input", "input_dir", "input_path", "i"),
        ("INPUT", "DATASET", "SRC"),
    ),
    **dict.fromkeys(("image", "images", "image_dir", "img_dir"), ("INPUT", "data.train_images", "--images", "SRC")),
    **dict.fromkeys(
        ("data", "dataset", "dataset_dir", "dataset_name", "train_data", "annotations", "ann_file"), ("DATASET", "SRC")
    ),
    **dict.fromkeys(
        (
            "output",
            "output_dir",
            "out",
            "out_dir",
            "output_path",
            "save_dir",
            "work_dir",
            "project",
            "dest",
            "dir",
            "directory",
            "o",
        ),
        ("OUTPUT", "DEST", "DIR", "RUN"),
    ),
    **dict.fromkeys(("run", "run_dir", "predictions", "results"), ("RUN", "OUTPUT")),
    **dict.fromkeys(("gt", "truth", "gt_file", "labels"), ("--ground-truth",)),
    **dict.fromkeys(
        ("imgsz", "img_size", "image_size", "resolution", "input_size"),
        ("--size={shortest_edge: %, longest_edge: %}", "augment.crop_size"),
    ),
    **dict.fromkeys(("crop", "crop_size"), ("augment.crop_size",)),
    **dict.fromkeys(
        ("conf", "conf_thres", "confidence", "threshold", "score_thr", "min_score", "score"), ("--score-threshold",)
    ),
    **dict.fromkeys(("mask_thr", "mask_conf"), ("postprocess.mask_threshold",)),
    **dict.fromkeys(("max_det", "max_detections", "topk"), ("postprocess.top_k",)),
    **dict.fromkeys(("stuff", "stuff_classes", "label_ids_to_fuse"), ("postprocess.stuff_ids",)),
    **dict.fromkeys(
        ("num_gpus", "gpus", "ngpu", "n_gpus", "replicas", "num_replicas", "num_actors"), ("--actors", "train.workers")
    ),
    **dict.fromkeys(("nproc_per_node", "nproc"), ("train.workers", "--actors")),
    **dict.fromkeys(("num_workers", "workers", "dataloader_num_workers", "jobs"), ("compute.data_cpus",)),
    **dict.fromkeys(("gpu", "cuda", "use_gpu"), ("--device=cuda", "compute.device=cuda")),
    **dict.fromkeys(("cpu", "no_cuda", "no_gpu"), ("--device=cpu", "compute.device=cpu")),
    **dict.fromkeys(("half", "fp16", "float16"), ("model.precision=fp16", "train.precision=bf16")),
    **dict.fromkeys(("bf16", "bfloat16", "amp"), ("model.precision=bf16", "train.precision=bf16")),
    **dict.fromkeys(("dtype", "torch_dtype"), ("model.precision", "train.precision")),
    **dict.fromkeys(("device_map",), ("--device", "compute.device")),
    **dict.fromkeys(("batch", "bs", "per_device_train_batch_size"), ("compute.batch_size", "train.batch_size")),
    **dict.fromkeys(("threads", "num_threads"), ("compute.threads_per_actor", "compute.threads_per_worker")),
    **dict.fromkeys(("lr", "lr0", "base_lr"), ("train.learning_rate",)),
    **dict.fromkeys(("epoch", "num_epochs", "num_train_epochs", "max_epochs"), ("train.epochs",)),
    **dict.fromkeys(("iterations", "max_iter", "max_iters", "max_steps", "num_steps", "iters"), ("train.steps",)),
    **dict.fromkeys(("wd", "decay"), ("train.weight_decay",)),
    **dict.fromkeys(("patience", "early_stop"), ("train.early_stopping",)),
    **dict.fromkeys(("save_steps", "save_every"), ("train.checkpoint_every",)),
    **dict.fromkeys(("save_period",), ("train.checkpoint_every=...",)),  # is in epochs there
    **dict.fromkeys(("eval_steps", "eval_period", "val_interval"), ("train.evaluate_every",)),
    **dict.fromkeys(("random_seed", "manual_seed"), ("--seed", "train.seed")),
    **dict.fromkeys(("val_data", "validation", "val_dataset"), ("data.val", "--val")),
    **dict.fromkeys(("train_split",), ("--split", "data.split")),
    **dict.fromkeys(("val_split", "validation_split"), ("--split=0.8", "data.split=0.8")),  # are shares of the rest
    **dict.fromkeys(("class_names", "label_names", "names_file"), ("--names", "data.names")),
    **dict.fromkeys(("classes", "max_images", "limit", "num_samples"), ()),
    **dict.fromkeys(("force", "exist_ok", "replace"), ("--overwrite",)),
    **dict.fromkeys(("ray_address", "dist_url", "master", "cluster", "host", "server"), ("--address",)),
    **dict.fromkeys(("type", "output_format", "fmt", "form"), ("--format", "--to")),
    **dict.fromkeys(("src_format", "source_format", "input_format"), ("--from", "--format", "data.format")),
    **dict.fromkeys(("target_format", "dest_format"), ("--to",)),
    **dict.fromkeys(("format",), ("--from", "--to", "data.format")),
    **dict.fromkeys(("cfg", "config_file", "conf_file", "c", "yaml"), ("--config",)),
    **dict.fromkeys(("opts", "options", "cfg_options", "param"), ("--set",)),
    **dict.fromkeys(("dryrun", "plan", "estimate"), ("--dry-run",)),
    **dict.fromkeys(("silent", "no_progress"), ("--quiet",)),
    **dict.fromkeys(("mode",), ("--task",)),
    **dict.fromkeys(("job_id", "id", "name"), ("--submission-id",)),
    **dict.fromkeys(("detach", "no_follow", "background"), ("--no-wait",)),
}
# words that need nothing
REMARKS: Mapping[str, str] = {
    **dict.fromkeys(
        ("resume", "continue", "restart", "resume_from_checkpoint"),
        "leave it out: the same command goes on where it stopped",
    ),
    **dict.fromkeys(
        ("verbose", "v", "vv", "vvv", "debug"), "leave it out: all that is known is printed, and kept in OUTPUT"
    ),
    **dict.fromkeys(("save", "save_txt", "save_json"), "leave it out: the rows are always written to OUTPUT"),
    **dict.fromkeys(("recursive", "r"), "leave it out: folders below INPUT are always read"),
}
# and those that need something where the command has no such option
ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(
        ("format", "save_format", "output_format"),
        "rows are Parquet, of which m2f-batch export makes COCO and other formats",
    ),
    **dict.fromkeys(
        ("max_images", "limit", "num_samples"), "all that is listed is taken: give a folder, a glob or a list of fewer"
    ),
    **dict.fromkeys(("num_workers", "workers", "dataloader_num_workers", "jobs"), "leave it out: all CPUs are used"),
    **dict.fromkeys(
        ("model", *(word for word, targets in WORDS.items() if targets == ("--model",))),
        "m2f-batch segment and finetune take a model as --model M, and demo has a model of its own",
    ),
    **dict.fromkeys(
        ("working_dir", "runtime_env", "runtime_env_json", "py_modules"),
        "leave it out: m2f-batch submit sends the package with the job",
    ),
    **dict.fromkeys(
        ("entrypoint_num_cpus", "entrypoint_num_gpus", "entrypoint_memory", "entrypoint_resources"),
        "leave it out: a job asks Ray for what it needs by itself",
    ),
}
# values of other tools, by what they are called here
VALUES: Mapping[str, str] = {
    **dict.fromkeys(("segment", "seg", "segmentation", "detect", "detection", "det", "obb"), "instance"),
    **dict.fromkeys(("sem_seg", "semseg"), "semantic"),
}
COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "tune", "fit", "fine-tune", "training"), "finetune"),
    **dict.fromkeys(
        ("predict", "infer", "inference", "label", "labels", "run", "detect", "seg", "annotate"), "segment"
    ),
    **dict.fromkeys(("val", "eval", "validate", "test", "metrics", "score"), "evaluate"),
    **dict.fromkeys(("check", "audit"), "lint"),
    **dict.fromkeys(("info", "progress", "show", "ls"), "status"),
    **dict.fromkeys(("proof", "fsck"), "verify"),
    **dict.fromkeys(("save", "download"), "export"),
    **dict.fromkeys(("debug", "why", "inspect"), "explain"),
    **dict.fromkeys(("help",), "--help"),
    **dict.fromkeys(("version",), "--version"),
}


def meant_name(word: str, names: Container[str]) -> str | None:
    """Return the one of ``names`` that a word of another tool means, None where it means none of them.

    >>> meant_name("conf", ["score_threshold"]), meant_name("epochs", ["steps"])
    ('score_threshold', None)
    """
    meant = (canonical(target).rpartition(".")[2] for target in WORDS.get(canonical(word), ()))
    return next((name for name in meant if name in names), None)


def meant_value(value: str, choices: Iterable[str]) -> str:
    """Return the question after the one of ``choices`` that a value means, nothing where it means none of them.

    >>> meant_value("segment", ["semantic", "instance"]), meant_value("COCO", ["coco", "yolo"])
    ('did you mean instance?', 'did you mean coco?')
    """
    choices, word = [*choices], value.lower()
    meant = VALUES.get(word.replace("-", "_"))
    return f"did you mean {meant}?" if meant in choices else did_you_mean(word, choices)


def canonical(word: str) -> str:
    """Return an option as the tables spell it.

    >>> canonical("--Batch-Size=8"), canonical("-o")
    ('batch_size', 'o')
    """
    return word.partition("=")[0].lstrip("-").replace("-", "_").lower()
