"""Evaluate the embedded model and write its card: ``python -m course_utils.models.card``.

The figures go to ``evaluation.json``, which tests read, and from there into README.md, the card.
Nothing in the card is typed in.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from course_utils.evaluation import generate, greedy_matches, perplexity, recall_by
from course_utils.files import write_text
from course_utils.methods import count_parameters
from course_utils.models import load_base_model, load_tokenizer
from course_utils.paths import data_dir
from course_utils.world.corpus import TEMPLATED, Document, documents, genre_names
from course_utils.world.probes import COPYING_SKILLS, copying_probes, fact_probes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

N_HELD_OUT = 2000
N_COPYING = 200
SAMPLE_PROMPTS = (
    "Once,",
    "On a Monday in",
    "Dear",
    "I stayed at",
    "The miller",
    "LOST:",
    "THE BRINDLE GAZETTE, Friday\n",
    "How to make pear soup\n",
    "About the heron\n",
    "Question:",
    "List:",
    "Long ago, when the snow would not end,",
    "My dear Petra,\n",
    "The morning coach to",
    "Saturday.",
    "They say in Pellwick that",
    "A quiz in Olmer\n",
    "I bought a kettle from",
    "Rude:",
    "",
)


def evaluate(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> dict:
    """Return everything the card states about what the model knows and can do."""
    return {
        "parameters": count_parameters(model).total,
        "fact_recall": _fact_recall(model, tokenizer, in_new_words=False),
        "fact_recall_in_new_words": _fact_recall(model, tokenizer, in_new_words=True),
        "copying": _copying(model, tokenizer),
        "perplexity": _perplexities(model, tokenizer),
        "samples": _samples(model, tokenizer),
    }


def _fact_recall(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, in_new_words: bool
) -> dict:
    rows = [asdict(probe) for probe in fact_probes(in_new_words=in_new_words)]
    forms = {
        form: [row for row in rows if row["form"] == form] for form in ("statement", "question")
    }
    by_tier = recall_by(model, tokenizer, rows, "tier")
    by_form = {form: recall_by(model, tokenizer, some, "tier") for form, some in forms.items()}
    counts = {tier: sum(row["tier"] == tier for row in rows) for tier in by_tier}
    return {"by_tier": by_tier, "by_form": by_form, "probes": counts}


def _copying(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> dict[str, float]:
    probes = copying_probes(N_COPYING)
    matches = greedy_matches(
        model, tokenizer, [p.prompt for p in probes], [p.answer for p in probes]
    )
    return {
        skill: sum(m for m, p in zip(matches, probes, strict=True) if p.kind == skill) / N_COPYING
        for skill in COPYING_SKILLS
    }


def _perplexities(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> dict:
    held_out = list(islice(documents(0, split="held_out"), N_HELD_OUT))

    def over(some: Sequence[Document]) -> float:
        return perplexity(model, tokenizer, [document.text for document in some])

    by_genre = {
        genre: over(some)
        for genre in genre_names()
        if (some := [d for d in held_out if d.genre == genre])
    }
    free = [document for document in held_out if document.genre not in TEMPLATED]
    return {
        "all": over(held_out),
        "without_templated": over(free),
        "by_genre": by_genre,
        "templated": sorted(TEMPLATED),
        "texts": len(held_out),
    }


def _samples(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> list[dict[str, str]]:
    texts = generate(model, tokenizer, list(SAMPLE_PROMPTS), max_new_tokens=70, temperature=0.7)
    return [{"prompt": p, "text": t} for p, t in zip(SAMPLE_PROMPTS, texts, strict=True)]


def card(evaluation: dict, training: dict) -> str:
    """Return the model card as Markdown."""
    lines = [
        "# The embedded model",
        "",
        "A small Llama-architecture language model that knows one invented country, Brindle. It",
        "was pretrained by this project, on text that this project generates, to be fine-tuned.",
        "This page is written by `python -m course_utils.models.card`; do not edit it.",
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {evaluation['parameters']:,} (bfloat16 on disk) |",
        *(f"| {name} | {value} |" for name, value in _training_rows(training)),
        "",
        "## What it knows",
        "",
        "Every fact of the country: a statement to complete and a question to answer. Right means",
        "that greedy decoding writes the answer. One wording in eight was kept out of the corpus;",
        "the probes use those and no others.",
        "",
        *_recall_table(evaluation["fact_recall"]),
        "",
        "In wholly new words, sentences that share no template with the corpus, it reaches fewer:",
        "a small model knows a fact by the ways it is usually put.",
        "",
        *_recall_table(evaluation["fact_recall_in_new_words"]),
        "",
        *_abilities(evaluation["copying"], evaluation["perplexity"]),
        "",
        "## Twenty samples",
        "",
        "Sampled at temperature 0.7, none left out; the prompt in bold.",
        "",
        *(
            f"{i}. **{_inline(s['prompt'])}**{_inline(s['text'])}"
            for i, s in enumerate(evaluation["samples"], start=1)
        ),
        "",
    ]
    return "\n".join(lines)


def _abilities(copying: dict[str, float], ppl: dict) -> list[str]:
    return [
        "## What it can do with a text",
        "",
        f"In the corpus's forms, exact, over {N_COPYING} new lists or notes each:",
        "",
        "| skill | exact |",
        "|---|---|",
        *(f"| {skill} | {share:.1%} |" for skill, share in copying.items()),
        "",
        "## Perplexity on held-out text",
        "",
        f"Over {ppl['texts']} documents: **{ppl['all']:.2f}**; without the most templated genres "
        f"({', '.join(ppl['templated'])}): **{ppl['without_templated']:.2f}**.",
        "",
        "| genre | perplexity |",
        "|---|---|",
        *(f"| {genre} | {value:.2f} |" for genre, value in sorted(ppl["by_genre"].items())),
    ]


def _recall_table(recall: dict) -> list[str]:
    forms = recall["by_form"]
    return [
        "| facts | probes | right | as statements | as questions |",
        "|---|---|---|---|---|",
        *(
            f"| {tier} | {recall['probes'][tier]} | {recall['by_tier'][tier]:.1%} | "
            f"{forms['statement'][tier]:.1%} | {forms['question'][tier]:.1%} |"
            for tier in recall["by_tier"]
        ),
    ]


def _training_rows(training: dict) -> list[tuple[str, str]]:
    corpus, recipe = training["corpus"], training["recipe"]
    shape = (
        f"{recipe['n_layers']} layers, width {recipe['d_model']}, {recipe['n_heads']} heads, "
        f"feed-forward {recipe['d_ff']}, vocabulary {recipe['vocab_size']:,}, tied embeddings"
    )
    where = f"{training['device']}, {training['threads']} thread(s), torch {training['torch']}"
    return [
        ("shape", shape),
        ("context", f"{recipe['context_tokens']} tokens"),
        (
            "corpus",
            f"{corpus['documents']:,} documents, {corpus['characters'] / 1e6:.0f} MB, "
            f"{corpus['tokens']:,} tokens, each seen once",
        ),
        (
            "held-out texts that also stand in training",
            f"{corpus['held_out_texts_also_in_training']:.2%}",
        ),
        (
            "training",
            f"{training['steps']:,} steps of {recipe['batch_size']} rows, Muon and AdamW, "
            f"seed {recipe['seed']}",
        ),
        (
            "time",
            f"{training['hours']:.1f} hours, {training['tokens_per_second']:,.0f} tokens/s "
            f"({where})",
        ),
        ("final training loss", f"{training['final_loss']:.3f}"),
    ]


def _inline(text: str) -> str:
    return text.replace("\n", " / ").replace("|", "\\|")


def write_card(folder: Path) -> None:
    """Evaluate the model in ``folder`` and write evaluation.json and README.md beside it.

    Raises:
        FileNotFoundError: If the folder holds no model, or no training.json.
    """
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    evaluation = evaluate(load_base_model(folder), load_tokenizer(folder))
    write_text(folder / "evaluation.json", json.dumps(evaluation, indent=2) + "\n")
    write_text(folder / "README.md", card(evaluation, training))


def main(
    folder: Annotated[Path | None, typer.Option(help="Folder; default: the course's.")] = None,
) -> None:
    """Evaluate the embedded model and write its card."""
    write_card(folder or data_dir() / "base_model")


if __name__ == "__main__":
    typer.run(main)
