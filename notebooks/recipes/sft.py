"""Train LoRA on rows of text with TRL's SFTTrainer.

Written by `course recipes` from the cells of chapter 11; change them there.

    python sft.py MODEL TEXTS OUT
"""

import sys

import torch

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

from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

usual = {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "bf16": False}
plain = {"disable_tqdm": True, "dataloader_pin_memory": False}
sft = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(MODEL, revision=REVISION, dtype=torch.float32),
    args=SFTConfig(
        f"{OUT}/sft", max_steps=4, max_length=BLOCK, learning_rate=RATE, **usual, **plain
    ),
    train_dataset=parts["train"],
    processing_class=tokenizer,
    peft_config=LoraConfig(r=16, target_modules="all-linear"),
)
result = sft.train()
