"""Train LoRA on a base that is stored in four bits.

Written by `course recipes` from the cells of chapter 11; change them there.

    python four_bits.py MODEL TEXTS OUT
"""

import sys
from itertools import chain

MODEL, TEXTS, OUT = sys.argv[1:4]  # a folder or an id of the Hub, a text file, a new folder
REVISION = None  # the commit of a model of the Hub
BLOCK, EPOCHS, RATE = 128, 3, 5e-4
SOURCE = {"path": "text", "data_files": TEXTS}

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

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

four_bits = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float16 if torch.cuda.is_available() else torch.float32,
)
small = AutoModelForCausalLM.from_pretrained(
    MODEL,
    revision=REVISION,
    quantization_config=four_bits,
    device_map={"": 0 if torch.cuda.is_available() else "cpu"},
)
for layer in small.modules():  # on some processors a look would stop all gradients (chapter 03)
    if hasattr(layer, "support_avx512bf16_for_cpu"):
        layer.support_avx512bf16_for_cpu = False
small = prepare_model_for_kbit_training(small, use_gradient_checkpointing=False)
small = get_peft_model(small, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))

from transformers import Trainer, TrainingArguments

short = TrainingArguments(
    output_dir=f"{OUT}/four-bits",
    max_steps=6,
    per_device_train_batch_size=4,
    learning_rate=RATE,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    dataloader_pin_memory=False,
    disable_tqdm=True,
)
four_bit_trainer = Trainer(small, short, train_dataset=blocks["train"], data_collator=collator)
four_bit_trainer.train()
small.save_pretrained(f"{OUT}/four-bits")
