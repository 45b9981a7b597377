"""Pretrain the embedded model: ``python -m course_utils.models.pretrain``.

Corpus, tokenizer, model, weights and model card follow from the seed. Every stage leaves its result
in the work folder, and training writes checkpoints: run the same command again after a kill and it
goes on where it was.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer

from course_utils.data import encode_text, pack_examples
from course_utils.files import new_file, replacement_of, write_text
from course_utils.models import write_checksums
from course_utils.models.card import N_HELD_OUT, write_card
from course_utils.paths import data_dir
from course_utils.training import TrainingConfig, train
from course_utils.world.corpus import ASSISTANT, END, USER, documents

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD, BEGIN = "<|pad|>", "<|begin|>"
_SPECIAL = (PAD, BEGIN, END, USER, ASSISTANT)
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('roles are user and assistant') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
logger = logging.getLogger("course_utils.models.pretrain")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything the weights depend on, beside the code.

    Args:
        seed: Seed of the corpus, the initial weights and the order of the rows.
        tokens: Tokens of the corpus, each seen once.
        vocab_size: Tokens of the byte-level BPE, special ones included.
        d_model: Width.
        n_layers: Blocks.
        n_heads: Attention heads.
        d_ff: Width of the gated feed-forward layer.
        context_tokens: Length of a row, and the longest document.
        batch_size: Rows a step.
        learning_rate: Peak rate of Muon, for the blocks' matrices.
        embedding_learning_rate: Peak rate of AdamW, for embedding and norms.
    """

    seed: int = 0
    tokens: int = 25_200_000
    vocab_size: int = 3072
    d_model: int = 256
    n_layers: int = 6
    n_heads: int = 4
    d_ff: int = 512
    context_tokens: int = 256
    batch_size: int = 16
    learning_rate: float = 3e-3
    embedding_learning_rate: float = 3e-3


class TokenStore(Sequence):
    """Encoded documents on disk, read when they are asked for.

    Args:
        folder: Folder with ``tokens.bin`` (uint16) and ``lengths.npy``.

    Raises:
        ValueError: If the two do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        self._tokens = np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r")
        sizes = np.load(folder / "lengths.npy")
        self._ends = np.cumsum(sizes)
        if self._ends[-1] != len(self._tokens):
            raise ValueError(
                f"{folder} holds {len(self._tokens)} tokens, and documents of {self._ends[-1]}: "
                "remove corpus.json to write the corpus again"
            )
        self.lengths = sizes.tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        end = self._ends[index]
        ids = self._tokens[end - self.lengths[index] : end].tolist()
        return {"input_ids": ids, "labels": ids}


def build_tokenizer(recipe: Recipe, n_documents: int = 40_000) -> "PreTrainedTokenizerBase":
    """Train the byte-level BPE on the first documents; digits stay single, so that sums line up."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=list(_SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = (document.text for document in islice(documents(recipe.seed), n_documents))
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, bpe.token_to_id(BEGIN))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=2 * recipe.context_tokens,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def write_tokens(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> TokenStore:
    """Encode documents until ``recipe.tokens`` are reached; count them by genre and fact."""
    if not (folder / "corpus.json").is_file():
        stream = documents(recipe.seed, mentions=(mentions := Counter()))
        genres: Counter[str] = Counter()
        lengths: list[int] = []
        texts: set[int] = set()
        total = characters = 0
        with replacement_of(folder / "tokens.bin") as temporary, new_file(temporary) as file:
            while total < recipe.tokens:
                chunk = list(islice(stream, 2000))
                for document in chunk:
                    ids = encode_text(
                        tokenizer, document.text, max_length_tokens=recipe.context_tokens
                    )["input_ids"]
                    file.write(np.asarray(ids, dtype=np.uint16).tobytes())
                    lengths.append(len(ids))
                    genres[document.genre] += len(ids)
                    texts.add(hash(document.text))
                    characters += len(document.text)
                total = sum(genres.values())
        with replacement_of(folder / "lengths.npy") as temporary, new_file(temporary) as file:
            np.save(file, np.asarray(lengths, dtype=np.int32))
        held_out = islice(documents(recipe.seed, split="held_out"), N_HELD_OUT)
        shared = sum(hash(document.text) in texts for document in held_out) / N_HELD_OUT
        summary = {
            "documents": len(lengths),
            "tokens": total,
            "characters": characters,
            "held_out_texts_also_in_training": shared,
            "tokens_by_genre": dict(genres),
            "mentions_by_fact": dict(mentions),
        }
        write_text(folder / "corpus.json", json.dumps(summary))  # says that the others are whole
    return TokenStore(folder)


def build_model(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """Return the untrained model: Llama architecture, tied embeddings, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_ff,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_heads,
        max_position_embeddings=2 * recipe.context_tokens,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # SDPA's backward pass is slow in bfloat16 on the CPU.
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def save_model(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> None:
    """Write bfloat16 weights, tokenizer and checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    write_checksums(folder)


def main(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the model; default: the course's own.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder of corpus, checkpoints and log.")] = Path(
        "runs/pretrain"
    ),
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to train on.")] = Recipe.tokens,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = Recipe.seed,
    threads: Annotated[
        int, typer.Option(min=0, help="Processor threads; 0 leaves torch's choice.")
    ] = 0,
) -> None:
    """Write the corpus, train the tokenizer and the model, evaluate it and write its card."""
    recipe = Recipe(seed=seed, tokens=tokens)
    work.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if threads:
        torch.set_num_threads(threads)
    _check_recipe(recipe, work)
    tokenizer = build_tokenizer(recipe)
    store = write_tokens(recipe, tokenizer, work)
    logger.info("%d documents, %d tokens", len(store), sum(store.lengths))
    model = build_model(recipe, tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = _training_config(recipe, store, work)
    result = train(model.to(device), store, config, make_optimizers=partial(_optimizers, recipe))
    out = out or data_dir() / "base_model"
    save_model(model.cpu(), tokenizer, out)
    summary = json.loads((work / "corpus.json").read_text(encoding="utf-8"))
    last = result.losses[-200:]
    training = {
        "corpus": {k: v for k, v in summary.items() if k != "mentions_by_fact"},
        "recipe": asdict(recipe),
        "steps": config.max_steps,
        "hours": result.seconds / 3600,
        "tokens_per_second": result.tokens_per_second,
        "final_loss": sum(last) / len(last),
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_text(out / "training.json", json.dumps(training, indent=2) + "\n")
    write_card(out)


def _training_config(recipe: Recipe, store: TokenStore, work: Path) -> TrainingConfig:
    rows = len(pack_examples(store, recipe.context_tokens))
    return TrainingConfig(
        max_steps=max(1, rows // recipe.batch_size),
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        warmup_ratio=0.02,
        final_ratio=0.02,
        precision="bfloat16",
        packing_length_tokens=recipe.context_tokens,
        seed=recipe.seed,
        checkpoint_dir=work / "checkpoints",
        checkpoint_every_steps=250,
        metrics_file=work / "metrics.jsonl",
    )


def _optimizers(recipe: Recipe, model: "PreTrainedModel") -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest.

    Muon (Jordan et al., 2024; scaled as in arXiv:2502.16982, section 2.2) needed a third of AdamW's
    tokens for the same loss here, which on a processor is hours.
    """
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name
        (matrices if is_matrix else rest).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=recipe.learning_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        rest, lr=recipe.embedding_learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    return [muon, adamw]


def _check_recipe(recipe: Recipe, work: Path) -> None:
    """Refuse to go on with another recipe's leavings."""
    path = work / "recipe.json"
    if path.is_file():
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            found = None
        if found != asdict(recipe):
            raise typer.BadParameter(
                f"{work} holds a run with another recipe, or a damaged one: choose another --work"
            )
    write_text(path, json.dumps(asdict(recipe), indent=2))


if __name__ == "__main__":
    typer.run(main)
