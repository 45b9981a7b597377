"""What trains around a model, and on what: chapters 00, 06 to 09 and 11."""

from itertools import pairwise

from course_utils.show.palette import MUTED
from course_utils.show.schematics.canvas import (
    COMPUTED,
    DATA,
    FROZEN,
    PADDING,
    TRAINED,
    Box,
    Canvas,
    Look,
)

_KEY = ((TRAINED, "trained"), (FROZEN, "frozen"))


def course() -> Canvas:
    """Draw the road through the chapters."""
    names = {
        "00": ("start", "here"),
        "01": ("full and", "frozen"),
        "02": ("LoRA",),
        "03": ("QLoRA",),
        "04": ("DoRA",),
        "05": ("adapters",),
        "06": ("prompts", "prefixes"),
        "07": ("instruction", "tuning"),
        "08": ("reward", "models"),
        "09": ("PPO",),
        "11": ("the", "libraries"),
    }
    c = Canvas(
        "The road through the chapters",
        height=13.5,
        alt="One line of eleven stations. 00 start here. Which numbers train: 01 full and frozen, "
        "02 LoRA, 03 QLoRA, 04 DoRA, 05 adapters, 06 prompts and prefixes. What they learn from: "
        "07 instruction tuning, 08 reward models, 09 PPO. How do I do it? 11 the libraries.",
    )
    stations = [c.node(3.4 + 6.52 * k, 6.5, name) for k, name in enumerate(names)]
    for station, lines in zip(stations, names.values(), strict=True):
        c.words(station.x, 3.4 - 0.925 * (len(lines) - 1), *lines)
    for left, right in pairwise(stations):
        c.line(left.right, right.left)
    for first, last, question in (
        (0, 0, "the cost"),
        (1, 6, "which numbers train?"),
        (7, 9, "what do they learn from?"),
        (10, 10, "how do I?"),
    ):
        left, right = stations[first].x - 2.6, stations[last].x + 2.6
        c.line((left, 9.3), (left, 10.1), (right, 10.1), (right, 9.3), colour=MUTED)
        c.words((left + right) / 2, 11.8, question)
    return c


def prefix() -> Canvas:
    """Draw where trained vectors sit: at the input, in every layer's cache, before an encoder."""
    c = Canvas(
        "Trained vectors stand at the input, or in every layer's cache",
        height=38,
        alt="Three copies of a frozen model of three layers over a text of four tokens. Prompt "
        "tuning: two trained vectors before the embeddings of the text. Prefix tuning and P-tuning "
        "v2: two trained keys and values in every layer's cache, none among the embeddings. "
        "P-tuning: a small trained encoder makes the two vectors among the embeddings.",
    )
    for y, name in ((12, "embeddings"), (18, "layer 1"), (24, "layer 2"), (30, "layer 3")):
        c.words(9.5, y, name, align="right")
    c.words(20.6, 36, "prompt tuning", "vectors before the text", bold=True)
    c.words(41.4, 36, "prefix tuning, P-tuning v2", "keys and values in each layer", bold=True)
    c.words(62.2, 36, "P-tuning", "vectors from an encoder", bold=True)
    _tokens_in_layers(c, 20.6, embedded=TRAINED, cached=COMPUTED)
    _tokens_in_layers(c, 41.4, embedded=None, cached=TRAINED)
    first, last = _tokens_in_layers(c, 62.2, embedded=COMPUTED, cached=COMPUTED)
    x = (first.x + last.x) / 2
    encoder = c.box(TRAINED, x, 7.4, 7, 2.4, "encoder")
    for cell in (first, last):
        vector = c.box(TRAINED, cell.x, 3.7, 2.2, 1.6)
        c.arrow(vector.top, (cell.x, encoder.bottom[1]))
        c.arrow((cell.x, encoder.top[1]), cell.bottom)
    c.key(0.5, 1, *_KEY, (DATA, "the text"), (COMPUTED, "computed"))
    return c


def _tokens_in_layers(c: Canvas, x: float, *, embedded: Look | None, cached: Look) -> list[Box]:
    """Draw a text of four tokens behind two vectors; return those among the embeddings."""
    places = [x - 7.5 + 3 * k for k in range(6)]
    for k, place in enumerate(places[2:]):
        c.box(DATA, place, 12, 2.4, 2.4)
        c.arrow((places[2 + k], 13.2), (places[2 + k], 16.1), colour=MUTED)
    for y in (18, 24, 30):
        c.box(FROZEN, x, y, 18.6, 3.8)
        for k, place in enumerate(places):
            c.box(cached if k < 2 else COMPUTED, place, y, 2.2, 2.2)
            is_passed_on = k >= 2 or cached is COMPUTED
            if is_passed_on and y < 30:
                c.arrow((place, y + 1.9), (place, y + 4.1), colour=MUTED)
    virtual = [c.box(embedded, place, 12, 2.2, 2.2) for place in places[:2] if embedded]
    for box in virtual:
        c.arrow(box.top, (box.x, 16.1), colour=MUTED)
    return virtual


_CHAT = (
    ("<|begin|>", "begin"),
    ("<|user|>", "user mark"),
    ("How", ""),
    ("many", "instruction"),
    ("?", ""),
    ("<|end|>", "end"),
    ("<|assistant|>", "assistant mark"),
    ("Two", ""),
    (".", ""),
    ("<|end|>", "end"),
)
_FIRST_OF_ANSWER = 7


def chat_loss() -> Canvas:
    """Draw a chat as tokens, and which of them carry loss."""
    c = Canvas(
        "The loss counts the answer and its end token alone",
        height=20.5,
        alt="A chat as a row of tokens: begin, user mark, instruction, end, assistant mark, "
        "answer, end. Above it the row of labels: -100, which carries no loss, up to the assistant "
        "mark; then the tokens of the answer and the end token, which do. To each of these an "
        "arrow leads from the token before it: a position predicts the token after it.",
    )
    read, labels, left = [], [], 6.4
    for k, (token, _) in enumerate(_CHAT):
        width = max(3.6, 0.7 + 0.77 * len(token))
        x, left = left + width / 2, left + width + 0.95
        carries_loss = k >= _FIRST_OF_ANSWER
        read.append(c.box(DATA, x, 6.5, width, 2.6, token, mono=True))
        label = token if carries_loss else "−100"
        look = TRAINED if carries_loss else PADDING
        labels.append(c.box(look, x, 14.5, width, 2.6, label, mono=True))
    for k in range(_FIRST_OF_ANSWER, len(_CHAT)):
        c.arrow(read[k - 1].top, labels[k].bottom)
    for box, (_, role) in zip(read, _CHAT, strict=True):
        if role:
            c.words(box.x, 4, role)
    c.words((read[7].x + read[8].x) / 2, 4, "answer")
    c.words(5.6, 6.5, "tokens", align="right")
    c.words(5.6, 14.5, "labels", align="right")
    c.words(labels[-1].right[0], 18, "each position predicts the token after it", align="right")
    c.key(6.4, 1, (TRAINED, "carries loss"), (PADDING, "carries none"))
    return c


def reward_model() -> Canvas:
    """Draw two answers that one trunk reads and one head scores."""
    c = Canvas(
        "A reward model learns from the difference of two scores",
        height=38.5,
        alt="A chosen and a rejected answer, each a row of prompt, answer, end token and greyed "
        "padding, go through the same frozen trunk with LoRA. The same trained head reads each at "
        "its last real token, the end token, never at padding. The difference of the two scores "
        "goes through a sigmoid to the loss.",
    )
    trunk = c.box(FROZEN, 36, 14, 70, 4)
    c.words(42.5, trunk.y, "one trunk reads both: frozen, with", colour=MUTED, align="right")
    c.box(TRAINED, 46.2, trunk.y, 6, 2.4, "LoRA")
    chosen = _answer(c, 1, "chosen", answer=12, n_padding=1)
    rejected = _answer(c, 37.5, "rejected", answer=7.3, n_padding=2)
    minus = c.node((chosen + rejected) / 2, 27.5, "−")
    for x, name, side in ((chosen, "chosen", minus.left), (rejected, "rejected", minus.right)):
        head = c.box(TRAINED, x, 21, 8, 2.6, "head")
        c.arrow((x, trunk.top[1]), head.bottom)
        c.arrow(head.top, (x, minus.y), side)
        c.words((x + minus.x) / 2, minus.y + 1.4, f"score of {name}")
    c.words(minus.x, 21, "the same head for both", colour=MUTED)
    sigmoid = c.node(minus.x, 32, "σ")
    loss = c.box(COMPUTED, minus.x, 37, 18, 2.6, "loss: −log σ")
    c.arrow(minus.top, sigmoid.bottom)
    c.arrow(sigmoid.top, loss.bottom)
    c.words(minus.x + 2.5, 32, "how likely the chosen one wins", align="left")
    c.key(0.5, 1, *_KEY, (PADDING, "padding: not read"))
    return c


def _answer(c: Canvas, left: float, name: str, *, answer: float, n_padding: int) -> float:
    """Draw a row of tokens and lead it into the trunk; return the place of its end token."""
    c.words(left + 16.75, 4, name, bold=True)
    widths = [("prompt", 9.0), ("answer", answer), ("end", 4.1), *[("pad", 4.1)] * n_padding]
    end = 0.0
    for word, width in widths:
        look = PADDING if word == "pad" else DATA
        box = c.box(look, left + width / 2, 7.2, width, 2.6, word)
        left += width + 0.6
        if word != "pad":
            c.arrow(box.top, (box.x, 12))
        end = box.x if word == "end" else end
    return end


def rlhf() -> Canvas:
    """Draw the four models of PPO and the way of a batch through them."""
    c = Canvas(
        "PPO: two models train, two stay as they are",
        height=38.5,
        alt="Prompts go to the policy, which samples answers. Three models read them: the frozen "
        "reference, whose log-probabilities against the policy's give the KL fine; the frozen "
        "reward model, which gives one score an answer; and the critic, which gives values. All "
        "three become advantages. A clipped update trains the policy and the critic.",
    )
    prompts = c.box(DATA, 5.5, 19.5, 9, 3, "prompts")
    policy = c.box(TRAINED, 19, 19.5, 11, 5, "policy", "trained")
    answers = c.box(DATA, 32.5, 19.5, 9, 3, "answers")
    reference = c.box(FROZEN, 46, 29, 12, 5, "reference", "frozen")
    reward = c.box(FROZEN, 46, 19.5, 12, 5, "reward model", "frozen")
    critic = c.box(TRAINED, 46, 10, 12, 5, "critic", "trained")
    kl = c.box(COMPUTED, 64.5, 29, 14, 5, "KL fine", "for every token")
    advantages = c.box(COMPUTED, 64.5, 19.5, 14, 5, "advantages", "for every token")
    update = c.box(COMPUTED, 46, 4, 14, 2.6, "clipped update")
    for left, right in ((prompts, policy), (policy, answers), (answers, reward)):
        c.arrow(left.right, right.left)
    for model in (reference, critic):
        c.arrow((38.2, answers.y), (38.2, model.y), model.left)
    c.arrow(policy.top, (policy.x, 35.5), (kl.x, 35.5), kl.top)
    c.words(41, 36.8, "log p of the policy")
    c.arrow(reference.right, kl.left)
    c.words(54.7, reference.y + 1.2, "log p")
    c.arrow(kl.bottom, advantages.top)
    c.arrow(reward.right, advantages.left)
    c.words(54.7, reward.y + 1.2, "score")
    c.arrow(critic.right, (61, critic.y), (61, advantages.bottom[1]))
    c.words(55.5, critic.y + 1.2, "values")
    c.arrow((68, advantages.bottom[1]), (68, update.y), update.right)
    c.arrow(update.top, critic.bottom)
    c.arrow(update.left, (policy.x, update.y), policy.bottom)
    c.key(0.5, 1, *_KEY)
    c.words(71.5, 1, "with LoRA the reference is the policy, its adapter off", align="right")
    return c


def libraries() -> Canvas:
    """Draw the way from a text file to the Hub, and which library takes each step."""
    c = Canvas(
        "Each step from a file to the Hub has its library",
        height=31,
        alt="A chain of six things: file, rows, tokens, batch, trained weights, folder; then the "
        "Hub. Each arrow has its library. File to rows: datasets. Rows to tokens and tokens to "
        "batch: transformers, by a tokenizer and a collator. Batch to trained weights: "
        "transformers' Trainer, with accelerate for devices. Weights to folder: peft. Folder to "
        "Hub: huggingface_hub. Below the Trainer a frozen base, which bitsandbytes stores in four "
        "bits, and the trained A and B of peft. A bracket over the steps from rows to weights: "
        "trl's SFTTrainer does them in one.",
    )
    things = ("file", "rows", "tokens", "batch", "A and B", "folder", "Hub")
    places = [4 + 10.65 * k for k in range(len(things))]
    boxes = [
        c.box(TRAINED if name == "A and B" else DATA, x, 16, 6.4, 3, name)
        for x, name in zip(places, things, strict=True)
    ]
    steps = (
        ("datasets", "load_dataset"),
        ("transformers", "tokenizer"),
        ("transformers", "collator"),
        ("transformers", "Trainer"),
        ("peft", "save"),
        ("hub", "push"),
    )
    for (left, right), lines in zip(pairwise(boxes), steps, strict=True):
        c.arrow(left.right, right.left)
        c.words((left.x + right.x) / 2, 20.2, *lines, bold=True)
    middle = (boxes[3].x + boxes[4].x) / 2
    base = c.box(FROZEN, middle, 7.5, 15, 4.4, "base", "4 bits: bitsandbytes")
    c.arrow(base.top, (middle, 15.6))
    c.words(middle - 9, 7.5, "devices, 16 bits:", "accelerate", align="right")
    c.words(middle + 9, 7.5, "new weights on it:", "peft", align="left")
    first, last = boxes[1].x, boxes[4].x
    c.line((first, 23.6), (first, 24.6), (last, 24.6), (last, 23.6), colour=MUTED)
    c.words((first + last) / 2, 26.6, "trl: SFTTrainer does these in one")
    c.key(0.5, 1, *_KEY, (DATA, "data"))
    return c
