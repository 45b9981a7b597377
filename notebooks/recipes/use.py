"""Load a saved adapter, write with it, merge it.

Written by `course recipes` from the cells of chapter 11; change them there.

    python use.py MODEL TEXTS OUT
"""

import sys

import torch

MODEL, TEXTS, OUT = sys.argv[1:4]  # a folder or an id of the Hub, a text file, a new folder
REVISION = None  # the commit of a model of the Hub
ADAPTER = f"{OUT}/adapter"

from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(MODEL, revision=REVISION)
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token

from peft import PeftModel
from transformers import AutoModelForCausalLM

fresh = AutoModelForCausalLM.from_pretrained(MODEL, revision=REVISION, dtype=torch.float32)
loaded = PeftModel.from_pretrained(fresh, ADAPTER).eval()


def write(model, beginning, n_tokens=30):
    inputs = tokenizer(beginning, return_tensors="pt", return_token_type_ids=False).to(model.device)
    written = model.generate(
        **inputs, max_new_tokens=n_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    return tokenizer.decode(written[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


print(write(loaded, "Tha best supper yn"))

merged = loaded.merge_and_unload()
merged.save_pretrained(f"{OUT}/merged")
