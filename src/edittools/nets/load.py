"""`load_editor`: the editor of a run, of a published model, or of any pipeline of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edittools.errors import EditError, UsageError
from edittools.nets.editor import Editor, EditorOptions
from edittools.weights.lookup import check_kept, may_be_on_hub


def load_editor(spec: str, device: str = "cpu", dtype: str = "float32", **options: Any) -> Editor:
    """Load an editor from a folder, or a diffusers pipeline by its name on the hub.

    spec     a folder that `edit train` left, a model's folder with edit.json, a folder with a diffusers pipeline, or a
             hub name OWNER/NAME
    dtype    "float32", "bfloat16" or "float16"
    options  see EditorOptions

    Raises EditError that names the folder or the download that is missing, UsageError for an option that the model or
    the machine does not have.
    """
    path = Path(spec)
    check_kept(spec)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UsageError(f"no dtype `{dtype}`", hint="float32, bfloat16 or float16")
    if not path.is_dir() and not may_be_on_hub(spec):
        raise EditError(f"no folder {spec}", hint="a folder, or a name on the Hugging Face hub such as OWNER/NAME")
    chosen = EditorOptions(**options)
    # After the checks: importing these takes seconds.
    from edittools.nets import architecture_editor, pipeline_editor, run_folder
    from edittools.nets.acceleration import fitting, open_device
    from edittools.weights import diffusers as diffusers_weights
    from edittools.weights.quiet import disable_progress_bars

    disable_progress_bars("transformers", "diffusers")
    open_device(device)

    if path.is_dir() and run_folder.recognises(path):
        recipe, model = run_folder.finished_recipe(path)
        if model.get("lora"):  # adapters are put on the model that they were trained for
            told = vars(run_folder.with_defaults(chosen, recipe))
            base = run_folder.base_weights(path, model)
            return load_editor(base, device, dtype, **{**told, "lora": (spec, *chosen.lora)})
    with fitting(spec, device):
        if path.is_dir():
            for backend in (run_folder, architecture_editor):
                if backend.recognises(path):
                    return backend.load(spec, device, dtype, chosen)
            if not diffusers_weights.is_pipeline(path):
                raise EditError(
                    f"{spec} holds neither a run of `edit train` (config.json, transformer/), nor a model (edit.json), "
                    f"nor a diffusers pipeline (model_index.json)"
                )
        folder = diffusers_weights.locate_pipeline(spec)
        if architecture_editor.recognises(folder):
            return architecture_editor.load(str(folder), device, dtype, chosen)
        return pipeline_editor.load(spec, device, dtype, chosen)
