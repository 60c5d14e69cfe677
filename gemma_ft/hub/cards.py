"""The model card: what was tuned, on what, how, and how to use it.

Promises valid card metadata and only figures that were measured in the run. Sends nothing.
"""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData

from gemma_ft.catalog import find
from gemma_ft.config import RunConfig

GEMMA_NOTICE = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms."

ADAPTER_USE = """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{repo}")
tokenizer = AutoTokenizer.from_pretrained("{repo}")"""

FULL_USE = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repo}")
tokenizer = AutoTokenizer.from_pretrained("{repo}")"""

TEMPLATE = """---
{metadata}
---

# {name}

{base} tuned with {method} on {rows} ({data}).

## Use

```python
{use}
```

## Result

| | |
|---|---|
{figures}

## How it was made

```yaml
{config}```

{notice}
"""


def model_card(config: RunConfig, *, rows: int, figures: dict[str, str], repo: str | None = None) -> str:
    """Return the README of the tuned model; `figures` are measured values by their names."""
    adapter, pairs = config.method.adapter != "none", config.method.objective == "dpo"
    open_licence = (known := find(config.model.id)) is not None and known.licence == "Apache-2.0"
    metadata = ModelCardData(
        base_model=None if config.model.is_path else config.model.id,
        library_name="peft" if adapter else "transformers",
        license="apache-2.0" if open_licence else "gemma",
        pipeline_tag="text-generation",
        datasets=[str(config.data.id)] if config.data.source == "hub" else None,
        tags=["gemma", config.method.objective, *(["lora"] if adapter else [])],
    )
    shown = config.model_copy(
        update={
            "data": config.data.model_copy(
                update={name: _file_name(getattr(config.data, name)) for name in ("path", "validation_path")}
            ),
            "model": config.model.model_copy(update={"id": config.model.public_id}),
        }
    )
    text = TEMPLATE.format(
        metadata=metadata.to_yaml(),
        name=config.name,
        base=config.model.public_id,
        method=" and ".join([*(["DPO"] if pairs else []), "LoRA" if adapter else "full fine-tuning"]),
        rows=f"{rows:,} pairs of a better and a worse answer" if pairs else f"{rows:,} examples",
        data="a private file" if config.data.source == "file" or config.data.path else config.data.id,
        use=(ADAPTER_USE if adapter else FULL_USE).format(repo=repo or "path/to/this/folder"),
        figures="\n".join(f"| {name} | {value} |" for name, value in figures.items()),
        config=shown.to_yaml(),
        notice="" if open_licence else GEMMA_NOTICE,
    )
    return str(ModelCard(text))


def _file_name(path: str | None) -> str | None:
    """Keep the person's folders to themselves."""
    return path.replace("\\", "/").rpartition("/")[2] if path else None
