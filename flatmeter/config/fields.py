"""What every setting of a run means, in one line each: for ``--help``, the schema and the starter.

Plain text without pydantic, so that ``--help`` stays quick.
"""

from __future__ import annotations

DESCRIPTIONS: dict[str, str] = {
    "model": "the network: zoo:NAME, torchvision:NAME, hf:FOLDER, pkg.mod:factory or "
    "file.py:factory",
    "model_args": "arguments of the network's factory",
    "key": "which entry of the checkpoint holds the weights",
    "ema": "take the averaged weights (EMA) that stand beside the others",
    "data": "digits[:train|:test], torchvision:NAME[:test]@DIR, imagefolder[:SIZE]@DIR, text:FILE, "
    "a .pt or .npz file, pkg.mod:factory or file.py:factory",
    "samples": "size of the seeded subset of the data, or all",
    "batch_size": "samples per micro-batch, or auto; changes no result",
    "loss": "cross_entropy, mse, bce, causal_lm, pkg.mod:function or file.py:function",
    "weight_decay": "coefficient of (1/2)|w|^2 in the training loss",
    "lr": "learning rate of the training, for the edge-of-stability ratio",
    "bn": "batch-norm by stored statistics (eval) or each batch's own (batch); "
    "by default each measure's own choice",
    "bn_batch": "samples per batch of statistics where batch-norm uses the batch's own",
    "measures": "names, file.py:Class, or all",
    "options": "options of measures, by measure and option",
    "params": "measure only the parameters whose names match this pattern; the others are fixed",
    "rtol": "relative tolerance of every value; by default each measure's own",
    "confidence": "coverage of the intervals",
    "max_products": "most curvature products that one measure may spend; for traces "
    "most probes, of one or two products each",
    "max_time": "stop after this time (90s, 50m, 1h30m), with everything finished saved",
    "shard": "measure only this part of the checkpoints: 3/100, or auto in an array job of Slurm",
    "jobs": "processes that measure checkpoints side by side, or auto: one for each GPU where "
    "there are several",
    "rank_timeout": "of several processes, how long one may keep the others waiting (90s, 10m)",
    "device": "auto, cpu, cuda or cuda:N",
    "dtype": "float32, float64, or bfloat16 (the network in it, sums and vectors in float32)",
    "strategy": "how curvature products are computed: auto, reverse, reverse-batched, forward or "
    "forward-batched; changes no result",
    "seed": "of the subset and of every random vector",
    "deterministic": "only deterministic algorithms of PyTorch",
    "keep_going": "go on with the other checkpoints and measures after a failure",
    "allow_unconverged": "end with 0 although a value did not converge",
    "format": "what is printed: table, json, jsonl, csv, md or latex",
    "out": "folder of results; what is finished there is not measured again",
    "export": "files to write as well, their format by their ending",
    "sort": "column by which checkpoints are sorted; with a minus sign, the largest first",
    "columns": "columns of tables: loss, accuracy, n, seconds, a measure, or measure.quantity",
    "precision": "significant digits in tables",
    "per_layer": "print the values of layers and tensors too",
    "progress": "auto, plain or none",
}

FORMATS = ("table", "json", "jsonl", "csv", "md", "latex")
DTYPES = ("float32", "float64", "bfloat16")
BN_MODES = ("eval", "batch")
PROGRESS = ("auto", "plain", "none")

#: Settings that say what a checkpoint holds; the checkpoint's own words precede a project file's.
SUBJECT_FIELDS = ("model", "model_args", "key", "ema", "data", "loss")
