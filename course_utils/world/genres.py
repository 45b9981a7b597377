"""Documents about the country and its people: knowledge, stories, letters, dialogues, notices.

Every function takes a narrator and returns one document of one to about twelve sentences.
"""

from course_utils.world.country import Entity, Fact, lexicon
from course_utils.world.grammar import join_words, pick_some, tidy
from course_utils.world.narrator import Narrator
from course_utils.world.wordings import draw_wording


def profile(narrator: Narrator) -> str:
    """Describe one person in three to seven true sentences."""
    return _describe(narrator, narrator.entity("person"), 3, 7)


def town_guide(narrator: Narrator) -> str:
    """Describe one town, and now and then someone who lives there."""
    town = narrator.entity("town")
    text = _describe(narrator, town, 3, 7)
    residents = [
        fact.subject
        for fact in narrator.country.facts
        if fact.relation == "person.town" and fact.object == town.name
    ]
    if residents and narrator.chance(0.4):
        person = narrator.pick(residents)
        text += " " + " ".join(
            narrator.state(fact) for fact in narrator.some(_known(narrator, person), 1, 2)
        )
    return text


def almanac(narrator: Narrator) -> str:
    """Tell facts about a few animals, trades, goods, dishes or events."""
    kind = narrator.pick(("animal", "animal", "trade", "trade", "good", "dish", "event"))
    entity = narrator.entity(kind)
    words = lexicon("genres")["almanac"]
    topic = entity.name if kind in ("dish", "event") else f"the {entity.name}"
    lines = [
        narrator.state(fact)
        for subject in [entity] + [narrator.entity(kind) for _ in range(narrator.pick((0, 1, 2)))]
        for fact in narrator.some(_known(narrator, subject), 1, 4)
    ]
    title = narrator.pick(words["title"])
    heading = title.format(
        topic=topic.removeprefix("the ") if "the {" in title else topic, Topic=tidy(topic)
    )
    return f"{heading}\n" * narrator.chance(0.6) + " ".join(lines)


def quiz(narrator: Narrator) -> str:
    """Ask three to seven questions about the country and answer them."""
    slots = narrator.scene()
    title = narrator.pick(lexicon("genres")["question_answer"]["title"])
    kind = narrator.pick((None, None, "person", "town"))
    pairs = [narrator.ask(narrator.fact(kind)) for _ in range(narrator.rng.randrange(3, 8))]
    if narrator.chance(0.25):
        pairs.insert(narrator.rng.randrange(len(pairs)), _unknown(narrator))
    head = narrator.fill(title, slots).rstrip(".") + "\n" if title else ""
    return head + "\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in pairs)


def story(narrator: Narrator) -> str:
    """Tell a story of six to eight sentences; half end in questions about it."""
    text, questions = told_story(narrator)
    if narrator.chance(0.5):
        asked = pick_some(narrator.rng, questions, min(len(questions), narrator.pick((1, 2, 3))))
        text += "\n" + "\n".join(f"Question: {q}\nAnswer: {a}" for q, a in asked)
    return text


def told_story(narrator: Narrator) -> tuple[str, list[tuple[str, str]]]:
    """Return a story, and the questions it answers with their answers."""
    stories, slots = lexicon("stories"), narrator.scene()
    plot = stories["plots"][narrator.pick(list(stories["plots"]))]
    opening = narrator.pick(stories["frames"]["opening"])
    beats = [narrator.pick(beat).replace("<opening>", opening) for beat in plot["beats"]]
    if narrator.chance(0.4):
        beats.append(narrator.pick(stories["frames"]["moral"]))
    lines = [narrator.fill(beat, slots) for beat in beats]
    if narrator.chance(0.3):
        subject = narrator.pick([slots["town"], slots["animal"], slots["trade"], slots["item"]])
        lines.insert(1, narrator.state(narrator.pick(narrator.country.by_subject[subject])))
    text = " ".join(lines)
    pairs = [(narrator.fill(q, slots), narrator.fill(a, slots)) for q, a in plot["questions"]]
    answered = [(q, a) for q, a in pairs if a.rstrip(".").lower() in text.lower()]
    return text, answered or pairs[:1]


def letter(narrator: Narrator) -> str:
    """Write a letter with news, errands and true facts."""
    words, slots = lexicon("genres")["letter"], narrator.with_facts(narrator.scene())
    slots["quote"] = narrator.fill(narrator.pick(words["quote"]), slots)
    body = [narrator.pick(words["opening"])]
    body += narrator.some(words["body"], 2, 4)
    body.append(narrator.pick(words["closing"]))
    greeting = narrator.fill(narrator.pick(words["greeting"]), slots).rstrip(".")
    farewell = narrator.fill(narrator.pick(words["farewell"]), slots).rstrip(".")
    lines = [narrator.fill(line, narrator.with_facts(slots)) for line in body]
    return f"{greeting}\n{' '.join(lines)}\n{farewell}"


def dialogue(narrator: Narrator) -> str:
    """Let two people talk, in quotation of the form ``Name: words``."""
    words, slots = lexicon("genres")["dialogue"], narrator.scene()
    turns = narrator.some(words["small"], 1, 2) + [
        narrator.pick(words["know"]) for _ in range(narrator.pick((1, 2)))
    ]
    turns = pick_some(narrator.rng, turns, len(turns))
    if narrator.chance(0.4):
        turns.append(narrator.pick(words["farewell"]))
    lines = [narrator.fill(narrator.pick(words["scene"]), slots)] * narrator.chance(0.5)
    for turn in turns:
        full = narrator.with_facts(slots)
        lines += [f"{full[who]}: {narrator.fill(turn[who], full)}" for who in ("h", "k")]
    return "\n".join(lines)


def chat(narrator: Narrator, user: str, assistant: str, end: str) -> str:
    """Small talk in the chat format, so that its marks are known words before any tuning."""
    words, slots = lexicon("genres")["dialogue"], narrator.scene()
    turns = [t for t in words["small"] + words["farewell"] if "{list}" not in t["k"]]
    lines = [
        f"{user}{narrator.fill(turn['h'], slots)}{end}{assistant}{narrator.fill(turn['k'], slots)}"
        for turn in narrator.some(turns, 1, 3)
    ]
    return end.join(lines)


def notice(narrator: Narrator) -> str:
    """Put one to three notices on the board."""
    templates = narrator.some(lexicon("genres")["notice"], 1, 3)
    return "\n".join(narrator.fill(t, narrator.with_facts(narrator.scene())) for t in templates)


def diary(narrator: Narrator) -> str:
    """Keep a diary for two to five days in order."""
    days, templates = lexicon("things")["days"], lexicon("genres")["diary"]
    start, lines = narrator.rng.randrange(7), []
    slots = narrator.scene()
    for i, template in enumerate(narrator.some(templates, 2, 5)):
        fresh = narrator.with_facts(narrator.scene()) | {"Day": days[(start + i) % 7]}
        lines.append(narrator.fill(template, fresh | {"animal": slots["animal"]}))
    return "\n".join(lines)


def gazette(narrator: Narrator) -> str:
    """Print a page of the paper."""
    words, slots = lexicon("genres")["gazette"], narrator.scene()
    items = []
    for template in narrator.some(words["items"], 2, 5):
        fresh = narrator.with_facts(narrator.scene())
        fresh["quote_price"] = narrator.pick(words["quote_price"])
        items.append(narrator.fill(template, fresh))
    return "\n".join([narrator.fill(narrator.pick(words["head"]), slots).rstrip("."), *items])


def recipe(narrator: Narrator) -> str:
    """Write down a dish: ingredients, steps, and what the country knows of it."""
    words, dish = lexicon("genres")["recipe"], narrator.entity("dish")
    true_one = narrator.country.lookup(dish.name, "dish.ingredient")
    foods = [food for food in narrator.some(lexicon("things")["foods"], 2, 4) if food != true_one]
    slots = narrator.scene() | {
        "dish": dish.name,
        "Dish": tidy(dish.name),
        "list": join_words([*foods, true_one]),
        "i1": foods[0],
        "i2": foods[-1],
        "i3": true_one,
        "fact": narrator.state(narrator.pick(_known(narrator, dish))),
    }
    slots["List"] = tidy(slots["list"])
    lines = [narrator.fill(narrator.pick(words["need"]), slots)]
    lines += [narrator.fill(step, slots) for step in narrator.some(words["steps"], 2, 4)]
    lines.append(narrator.fill(narrator.pick(words["end"]), slots))
    title = narrator.fill(narrator.pick(words["title"]), slots).rstrip(".")
    return f"{title}\n{' '.join(lines)}"


def _known(narrator: Narrator, entity: Entity) -> tuple[Fact, ...]:
    return narrator.country.by_subject[entity.name]


def _describe(narrator: Narrator, entity: Entity, low: int, high: int) -> str:
    facts = narrator.some(_known(narrator, entity), low, high)
    lines = [narrator.state(facts[0])]
    for fact in facts[1:]:
        name = entity.short_name if narrator.chance(0.45) else entity.name
        lines.append(narrator.state(fact, name))
    return " ".join(lines)


def _unknown(narrator: Narrator) -> tuple[str, str]:
    """Ask about somebody no fact is about."""
    fact = narrator.fact("person")
    surname = narrator.pick(lexicon("names")["surnames"])
    nobody = Entity(kind="person", name=f"{narrator.scene()['stranger']} {surname}", gender="f")
    wording = draw_wording(fact.relation, "questions", narrator.rng)
    question = narrator.fill(wording, nobody.slots() | {"o": fact.object})
    return question, narrator.pick(lexicon("genres")["unknown"]["answers"])
