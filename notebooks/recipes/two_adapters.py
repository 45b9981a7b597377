"""Put two adapters on one base and switch between them.

Written by `course recipes` from the cells of chapter 11; change them there.

    python two_adapters.py MODEL TEXTS OUT
"""

import sys

MODEL, TEXTS, OUT = sys.argv[1:4]  # a folder or an id of the Hub, a text file, a new folder
REVISION = None  # the commit of a model of the Hub
ADAPTER = f"{OUT}/adapter"

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(MODEL, revision=REVISION, dtype=torch.float32)
both = PeftModel.from_pretrained(base, ADAPTER, adapter_name="skerrish")
both.add_adapter("new", LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
for name in ("skerrish", "new"):
    both.set_adapter(name)
    print(name, "is used; trained:", both.get_nb_trainable_parameters()[0])
