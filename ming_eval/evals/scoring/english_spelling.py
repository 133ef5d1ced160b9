"""British to American spelling of everyday words, by families."""

from __future__ import annotations

from collections.abc import Iterator

_OUR = (
    "arb ard arm behavi belab cand clam clang col demean enam endeav fav ferv flav glam harb hon hum lab misdemean "
    "multicol neighb od parl ranc rig rum sav savi splend succ technicol tricol tum val vap vig watercol"
).split()
_OUR_ENDINGS = (
    "our ourable ourably oural oured ourer ourers ourful ourhood ourhoods ouring ourings ourism ourist ourists "
    "ourite ourites ourless ourly ours oury"
).split()

_ISE = (
    "accessor acclimat actual aggrand agon amort anglic annual antagon apolog author bapt bastard bowdler brutal "
    "canal cannibal canon capital capsul caramel carbon categor cauter central character civil collectiv colon "
    "commercial compartmental computer conceptual contextual criminal critic crystal crystall custom decentral "
    "dehuman democrat demon demoral deodor deput digit dramat econom editorial empath emphas energ epitom equal "
    "eulog evangel exorc extempor external factor familiar fantas femin fertil fictional final formal fossil "
    "fratern galvan general glamor global harmon homogen hospital human hybrid hypnot hypothes ideal idol "
    "immobil immortal immun individual industrial initial institutional intellectual internal international ion "
    "ital item jeopard legal legitim liberal lion liquid local magnet marginal material maxim mechan memor "
    "memorial mesmer metabol militar miniatur minim mobil modern moistur monopol moral motor national natural "
    "neutral normal optim organ ostrac oxid particular pasteur patron pedestrian penal personal philosoph "
    "plagiar plural polar politic popular pressur priorit privat professional propagand proselyt public pulver "
    "radical random rational real recogn regular reorgan revital revolution ritual romantic sanit satir scandal "
    "scrutin secular sensational sensit sentimental serial sermon social solemn special stabil standard steril "
    "stigmat subsid summar symbol sympath synchron synthes systemat tantal tender terror theor tranquill traumat "
    "trivial tyrann union urban util vandal vapor verbal victim visual vocal vulgar western woman"
).split()
_ISE_ENDINGS = ("isable isably isation isational isations ise ised iser isers ises ising").split()

_YSE = ("anal", "paral", "catal", "electrol", "hydrol")
_YSE_ENDINGS = ("yse", "ysed", "ysing")  # `analyses` is also a plural

_RE = (
    "amphitheat calib cent centilit epicent fib goit lacklust lit louv lust meag millilit mit och philt "
    "reconnoit sab saltpet scept sepulch somb spect theat"
).split()
_METRES = ("metre", "kilometre", "centimetre", "millimetre", "micrometre", "nanometre")

_DOUBLED_L = (
    "backpedal bedevil bejewel bevel cancel carol cavil channel chisel counsel cudgel dial disembowel dishevel "
    "drivel duel enamel equal fuel funnel gambol gravel grovel gruel impanel imperil initial jewel label level "
    "libel marshal marvel model panel parcel pedal pencil pummel quarrel ravel revel rival shovel shrivel signal "
    "snivel snorkel spiral squirrel stencil swivel tassel total towel trammel travel tunnel unravel weasel yodel"
).split()

_WORDS = {
    "aeon": "eon",
    "aeroplane": "airplane",
    "aesthete": "esthete",
    "aesthetic": "esthetic",
    "ageing": "aging",
    "aluminium": "aluminum",
    "anaemia": "anemia",
    "anaemic": "anemic",
    "anaesthesia": "anesthesia",
    "anaesthetic": "anesthetic",
    "anaesthetise": "anesthetize",
    "anaesthetist": "anesthetist",
    "analogue": "analog",
    "appal": "appall",
    "archaeological": "archeological",
    "archaeologist": "archeologist",
    "archaeology": "archeology",
    "artefact": "artifact",
    "axe": "ax",
    "baulk": "balk",
    "caesarean": "cesarean",
    "catalogue": "catalog",
    "centrefold": "centerfold",
    "centrepiece": "centerpiece",
    "cheque": "check",
    "chequered": "checkered",
    "cosy": "cozy",
    "councillor": "councilor",
    "counsellor": "counselor",
    "crueller": "crueler",
    "cruellest": "cruelest",
    "defence": "defense",
    "dialogue": "dialog",
    "diarrhoea": "diarrhea",
    "disc": "disk",
    "distil": "distill",
    "draught": "draft",
    "draughty": "drafty",
    "encyclopaedia": "encyclopedia",
    "enrol": "enroll",
    "enrolment": "enrollment",
    "enthral": "enthrall",
    "epilogue": "epilog",
    "faeces": "feces",
    "fibreglass": "fiberglass",
    "foetal": "fetal",
    "foetus": "fetus",
    "fulfil": "fulfill",
    "fulfilment": "fulfillment",
    "gaol": "jail",
    "gaoler": "jailer",
    "gramme": "gram",
    "grey": "gray",
    "greyish": "grayish",
    "gynaecologist": "gynecologist",
    "gynaecology": "gynecology",
    "haemoglobin": "hemoglobin",
    "haemorrhage": "hemorrhage",
    "instalment": "installment",
    "instil": "instill",
    "jewellery": "jewelry",
    "judgement": "judgment",
    "kerb": "curb",
    "kilogramme": "kilogram",
    "leukaemia": "leukemia",
    "licence": "license",
    "likeable": "likable",
    "manoeuvre": "maneuver",
    "manoeuvring": "maneuvering",
    "marvellous": "marvelous",
    "mediaeval": "medieval",
    "monologue": "monolog",
    "mould": "mold",
    "mouldings": "moldings",
    "mouldy": "moldy",
    "moult": "molt",
    "moustache": "mustache",
    "oesophagus": "esophagus",
    "oestrogen": "estrogen",
    "offence": "offense",
    "omelette": "omelet",
    "orthopaedic": "orthopedic",
    "paediatric": "pediatric",
    "paediatrician": "pediatrician",
    "paedophile": "pedophile",
    "palaeontology": "paleontology",
    "panellist": "panelist",
    "phoney": "phony",
    "plough": "plow",
    "practise": "practice",
    "pretence": "pretense",
    "programme": "program",
    "prologue": "prolog",
    "pyjama": "pajama",
    "pyjamas": "pajamas",
    "sceptic": "skeptic",
    "sceptical": "skeptical",
    "scepticism": "skepticism",
    "sheikh": "sheik",
    "skilful": "skillful",
    "smoulder": "smolder",
    "storey": "story",
    "sulphate": "sulfate",
    "sulphide": "sulfide",
    "sulphur": "sulfur",
    "tonne": "ton",
    "tranquillise": "tranquilize",
    "tranquilliser": "tranquilizer",
    "tranquillity": "tranquility",
    "traveller": "traveler",
    "tyre": "tire",
    "wilful": "willful",
    "woollen": "woolen",
    "worshipped": "worshiped",
    "worshipper": "worshiper",
    "worshipping": "worshiping",
    "yoghurt": "yogurt",
}
_REGULAR_ENDINGS = ("s", "d", "ing")
_PREFIXES = ("dis", "mis", "out", "over", "re", "un")


def _pairs() -> Iterator[tuple[str, str]]:
    for stem in _OUR:
        yield from ((stem + ending, stem + ending.replace("our", "or", 1)) for ending in _OUR_ENDINGS)
    for stem in _ISE:
        yield from ((stem + ending, stem + ending.replace("is", "iz", 1)) for ending in _ISE_ENDINGS)
    for stem in _YSE:
        yield from ((stem + ending, stem + ending.replace("ys", "yz", 1)) for ending in _YSE_ENDINGS)
    for word in (*(f"{stem}re" for stem in _RE), *_METRES):
        yield from ((word + ending, _inflected(f"{word[:-2]}er", ending)) for ending in ("", "s", "d"))
    for word in _DOUBLED_L:
        yield from ((f"{word}l{ending}", word + ending) for ending in ("ed", "ing", "er", "ers"))
    for british, us in _WORDS.items():
        yield british, us
        yield from ((_inflected(british, ending), _inflected(us, ending)) for ending in _REGULAR_ENDINGS)


def _inflected(word: str, ending: str) -> str:
    """`word` with `s`, `d` or `ing`: `centered`, `stories`, `practicing`."""
    if ending == "s" and word.endswith("ry"):
        return f"{word[:-1]}ies"
    if word.endswith("e"):
        return word.removesuffix("e" if ending == "ing" else "") + ending
    return f"{word}ed" if ending == "d" else word + ending


_AMERICAN = dict(_pairs())


def american(word: str) -> str:
    """The American spelling of a word in lower case."""
    found = _AMERICAN.get(word)
    if found is not None:
        return found
    prefix = next((each for each in _PREFIXES if word.startswith(each)), "")
    return prefix + _AMERICAN.get(word.removeprefix(prefix), word.removeprefix(prefix))
