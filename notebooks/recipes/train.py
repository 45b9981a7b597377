"""Train LoRA on a text file, evaluate after each epoch, keep the best and save it.

Written by `course recipes` from the cells of chapter 11; change them there.

    python train.py MODEL TEXTS OUT
"""

import sys
from itertools import chain

import torch

MODEL, TEXTS, OUT = sys.argv[1:4]  # a folder or an id of the Hub, a text file, a new folder
REVISION = None  # the commit of a model of the Hub
BLOCK, EPOCHS, RATE = 128, 3, 5e-4
SOURCE = {"path": "text", "data_files": TEXTS}
ADAPTER = f"{OUT}/adapter"

from datasets import load_dataset

raw = load_dataset(**SOURCE, split="train")

texts = raw.filter(lambda row: row["text"].strip() != "")
parts = texts.train_test_split(test_size=0.1, shuffle=False)
print(f"{len(raw):,} lines, {len(texts):,} with text:", end=" ")
print(f"{len(parts['train']):,} to train, {len(parts['test']):,} to validate")

from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(MODEL, revision=REVISION)
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token


def tokenize(batch):
    ids = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
    return {"input_ids": [[*row, tokenizer.eos_token_id] for row in ids]}


def group_texts(batch):
    ids = list(chain.from_iterable(batch["input_ids"]))
    starts = range(0, len(ids) - BLOCK + 1, BLOCK)
    return {"input_ids": [ids[start : start + BLOCK] for start in starts]}


tokens = parts.map(tokenize, batched=True, remove_columns=parts["train"].column_names)
blocks = tokens.map(group_texts, batched=True)

from transformers import DataCollatorForLanguageModeling

collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

torch.manual_seed(0)
base = AutoModelForCausalLM.from_pretrained(MODEL, revision=REVISION, dtype=torch.float32)
lora = LoraConfig(
    r=16,
    lora_alpha=32,  # the update is multiplied by alpha / r = 2
    lora_dropout=0.0,
    bias="none",  # biases stay frozen
    target_modules="all-linear",
    task_type="CAUSAL_LM",
)
model = get_peft_model(base, lora)
model.print_trainable_parameters()

from transformers import Trainer, TrainingArguments

arguments = TrainingArguments(
    output_dir=OUT,
    num_train_epochs=EPOCHS,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,  # a step sees 2 x 2 blocks
    learning_rate=RATE,
    lr_scheduler_type="constant",
    weight_decay=0.01,
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=1,  # beside the best
    load_best_model_at_end=True,
    metric_for_best_model="eval_loss",
    greater_is_better=False,
    logging_strategy="epoch",
    report_to="none",
    fp16=torch.cuda.is_available(),  # calculations in 16 bits, weights in 32
    dataloader_pin_memory=False,
    disable_tqdm=True,
    seed=0,
)


def likeliest(logits, labels):
    return logits.argmax(-1)


def accuracy(results):
    guessed, labels = results.predictions[:, :-1], results.label_ids[:, 1:]
    return {"accuracy": float((guessed == labels)[labels != -100].mean())}


trainer = Trainer(
    model=model,
    args=arguments,
    train_dataset=blocks["train"],
    eval_dataset=blocks["test"],
    data_collator=collator,
    compute_metrics=accuracy,
    preprocess_logits_for_metrics=likeliest,
)

start = trainer.evaluate()
trainer.train()
print(f"before: loss {start['eval_loss']:.2f}; best: {trainer.state.best_metric:.2f}")

ADAPTER = f"{OUT}/adapter"
model.save_pretrained(ADAPTER)
saved = tokenizer.save_pretrained(ADAPTER)
