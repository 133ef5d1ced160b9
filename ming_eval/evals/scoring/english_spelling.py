"""British to American spelling of everyday words, by families."""

from __future__ import annotations

from collections.abc import Iterator

_OUR = (
    "arm behavi cand clam col demean endeav enam fav ferv flav glam harb hon hum lab neighb od parl ranc rig rum "
    "sav splend succ tum val vap vig"
).split()
_OUR_ENDINGS = (
    "our ours oured ouring ourful ourless ourable ourably ourite ourites ourhood ourhoods ourer ourers oury".split()
)

_ISE = (
    "actual agon apolog author brutal canal capital capsul categor central character civil colon critic crystal "
    "custom decentral democrat demoral digit dramat econom emphas energ equal familiar fantas fertil final formal "
    "fossil galvan general glamor harmon hospital human hypnot ideal immobil immun industrial initial "
    "institutional internal ital jeopard legal liberal local magnet marginal material maxim mechan memor minim "
    "mobil modern monopol national natural neutral normal optim organ ostrac oxid penal personal plural polar "
    "popular priorit privat public rational real recogn reorgan revolution romantic sanit scrutin sensit special "
    "stabil standard steril summar symbol sympath synthes systemat terror theor tranquill traumat urban util "
    "vandal verbal victim visual"
).split()
_ISE_ENDINGS = "ise ises ised ising isation isations iser isers".split()

_YSE = ("anal", "paral", "catal", "electrol", "hydrol")
_YSE_ENDINGS = ("yse", "ysed", "ysing")  # `analyses` is also a plural

_RE = "calib cent fib goit lit lust meag mit och reconnoit sab saltpet sepulch somb spect theat".split()
_METRES = ("metre", "kilometre", "centimetre", "millimetre", "micrometre", "nanometre")

_DOUBLED_L = (
    "cancel channel counsel cudgel dial duel enamel equal fuel funnel initial jewel label level libel marshal marvel "
    "model panel parcel pedal pencil quarrel rival shovel shrivel signal snorkel spiral swivel total towel travel "
    "tunnel unravel yodel"
).split()

_WORDS = {
    "aeon": "eon",
    "aeroplane": "airplane",
    "aesthetic": "esthetic",
    "ageing": "aging",
    "aluminium": "aluminum",
    "anaemia": "anemia",
    "anaemic": "anemic",
    "anaesthesia": "anesthesia",
    "anaesthetic": "anesthetic",
    "analogue": "analog",
    "archaeologist": "archeologist",
    "archaeology": "archeology",
    "axe": "ax",
    "caesarean": "cesarean",
    "catalogue": "catalog",
    "cheque": "check",
    "cosy": "cozy",
    "counsellor": "counselor",
    "defence": "defense",
    "diarrhoea": "diarrhea",
    "dialogue": "dialog",
    "draught": "draft",
    "encyclopaedia": "encyclopedia",
    "enrol": "enroll",
    "enrolment": "enrollment",
    "faeces": "feces",
    "foetal": "fetal",
    "foetus": "fetus",
    "fulfil": "fulfill",
    "fulfilment": "fulfillment",
    "grey": "gray",
    "gynaecology": "gynecology",
    "haemoglobin": "hemoglobin",
    "haemorrhage": "hemorrhage",
    "instalment": "installment",
    "jewellery": "jewelry",
    "judgement": "judgment",
    "kerb": "curb",
    "leukaemia": "leukemia",
    "licence": "license",
    "manoeuvre": "maneuver",
    "manoeuvring": "maneuvering",
    "marvellous": "marvelous",
    "mediaeval": "medieval",
    "monologue": "monolog",
    "moult": "molt",
    "moustache": "mustache",
    "mould": "mold",
    "mouldy": "moldy",
    "oesophagus": "esophagus",
    "oestrogen": "estrogen",
    "offence": "offense",
    "orthopaedic": "orthopedic",
    "paediatric": "pediatric",
    "paediatrician": "pediatrician",
    "plough": "plow",
    "practise": "practice",
    "pretence": "pretense",
    "programme": "program",
    "prologue": "prolog",
    "pyjamas": "pajamas",
    "sceptic": "skeptic",
    "sceptical": "skeptical",
    "scepticism": "skepticism",
    "skilful": "skillful",
    "smoulder": "smolder",
    "storey": "story",
    "sulphur": "sulfur",
    "sulphate": "sulfate",
    "traveller": "traveler",
    "tyre": "tire",
    "wilful": "willful",
    "woollen": "woolen",
    "yoghurt": "yogurt",
}
_REGULAR_ENDINGS = ("s", "d", "ed", "ing")


def _pairs() -> Iterator[tuple[str, str]]:
    for stem in _OUR:
        yield from ((stem + ending, stem + ending.replace("our", "or", 1)) for ending in _OUR_ENDINGS)
    for stem in _ISE:
        yield from ((stem + ending, stem + ending.replace("is", "iz", 1)) for ending in _ISE_ENDINGS)
    for stem in _YSE:
        yield from ((stem + ending, stem + ending.replace("ys", "yz", 1)) for ending in _YSE_ENDINGS)
    for word in (*(f"{stem}re" for stem in _RE), *_METRES):
        yield from ((word + ending, f"{word[:-2]}er{ending}") for ending in ("", "s", "d"))
    for word in _DOUBLED_L:
        yield from ((f"{word}l{ending}", word + ending) for ending in ("ed", "ing", "er", "ers"))
    for british, us in _WORDS.items():
        yield british, us
        yield from ((british + ending, us + ending) for ending in _REGULAR_ENDINGS)


_AMERICAN = dict(_pairs())


def american(word: str) -> str:
    """The American spelling of a word in lower case."""
    return _AMERICAN.get(word, word)
