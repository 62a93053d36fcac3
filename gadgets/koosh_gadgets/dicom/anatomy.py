"""Body parts: which come in pairs, and their codes in SNOMED CT (PS3.16, annex L)."""

from __future__ import annotations

PAIRED = frozenset((
    "ADRENAL", "ANKLE", "ARM", "AXILLA", "BREAST", "CALF", "CAROTID", "CLAVICLE", "EAR", "ELBOW", "EXTREMITY",
    "EYE", "FEMUR", "FINGER", "FOOT", "HAND", "HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "LUNG", "ORBIT", "OVARY",
    "PAROTID", "RIB", "SCAPULA", "SHOULDER", "TESTIS", "THIGH", "THUMB", "TMJ", "TOE", "WRIST",
))  # fmt: skip
UNPAIRED = frozenset((
    "ABDOMEN", "ABDOMENPELVIS", "AORTA", "BLADDER", "BRAIN", "CERVIX", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS",
    "COCCYX", "COLON", "CORONARYARTERY", "CSPINE", "CTSPINE", "ESOPHAGUS", "FACE", "GALLBLADDER", "HEAD",
    "HEADNECK", "HEART", "JAW", "LARYNX", "LIVER", "LSPINE", "LSSPINE", "MEDIASTINUM", "NECK", "NECKCHEST",
    "NOSE", "PANCREAS", "PELVIS", "PENIS", "PHARYNX", "PROSTATE", "RECTUM", "SCROTUM", "SKULL", "SPINE", "SPLEEN",
    "SSPINE", "STERNUM", "STOMACH", "THYROID", "TLSPINE", "TONGUE", "TSPINE", "UTERUS", "VAGINA", "WHOLEBODY",
))  # fmt: skip
ALIASES = {
    "CARDIAC": "HEART",
    "FOREARM": "ARM",
    "LOWERLEG": "LEG",
    "SACRUM": "SSPINE",
    "THORAX": "CHEST",
    "UPPERARM": "ARM",
}
# BodyPartExamined -> code, meaning
CODES = {
    "ABDOMEN": ("818981001", "Abdomen"),
    "ANKLE": ("70258002", "Ankle joint"),
    "BRAIN": ("12738006", "Brain"),
    "BREAST": ("76752008", "Breast"),
    "CHEST": ("51185008", "Chest"),
    "CSPINE": ("122494005", "Cervical spine"),
    "ELBOW": ("16953009", "Elbow joint"),
    "FOOT": ("56459004", "Foot"),
    "HAND": ("85562004", "Hand"),
    "HEAD": ("69536005", "Head"),
    "HEART": ("80891009", "Heart"),
    "HIP": ("24136001", "Hip joint"),
    "KNEE": ("72696002", "Knee"),
    "LIVER": ("10200004", "Liver"),
    "LSPINE": ("122496007", "Lumbar spine"),
    "NECK": ("45048000", "Neck"),
    "PELVIS": ("12921003", "Pelvis"),
    "PROSTATE": ("41216001", "Prostate"),
    "SHOULDER": ("16982005", "Shoulder"),
    "TSPINE": ("122495006", "Thoracic spine"),
    "WRIST": ("74670003", "Wrist joint"),
}
WHOLE_BODY = ("38266002", "Entire body")


def body_part(name: str) -> str:
    """The standard's term for a body part, empty where it has none."""
    plain = "".join(letter for letter in name.upper() if letter.isalnum())
    plain = ALIASES.get(plain, plain)
    return plain if plain in PAIRED | UNPAIRED else ""


def region(part: str, side: str) -> tuple[tuple[str, str], str]:
    """Code, meaning and frame laterality; where one isn't known, the whole body's."""
    if part not in CODES or (part in PAIRED and side not in ("L", "R")):
        return WHOLE_BODY, "U"
    return CODES[part], side if part in PAIRED else "U"
