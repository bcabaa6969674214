"""Samples inside a tar file that others made: videos, pictures or frames, with their captions.

Members of one sample share their name up to the first dot: a video (`mp4`, `webm`, ...) or picture
with its caption in `txt`, or under a usual key of `json`. Two forms of frames are clips, too:
numbered pictures of one sample (`0001.000.jpg`, `0001.001.jpg`, ...), and the pictures of a folder
that has one caption (`0001/frame_00001.jpg`, ...; `0001.txt`, or `0001/caption.txt`).

Of members with one name the last counts, as for `tar` itself: files are appended to replace others.
A tar file is read once from its beginning to its end; the sha256 of each video and picture is kept,
so that what is trained on is known by its content.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from simvtp.data.text.placeholder_captions import says_nothing
from simvtp.data.video.frame_folder import DIGITS, frame_order
from simvtp.errors import DataError

VIDEOS = (
    *("mp4", "webm", "mkv", "avi", "mov", "m4v", "mpg", "mpeg", "flv", "wmv", "asf", "3gp", "ogv"),
    *("ts", "mts", "m2ts", "vob", "qt", "divx"),
)
PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
MOVING_PICTURES = ("gif",)
CAPTION_KEYS = ("caption", "captions", "text", "sentence", "sentences", "title")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
READ_AT_ONCE = 2**20  # bytes


@dataclass(frozen=True)
class TarMember:
    """A video or picture in a tar file: its name, where its bytes are, and their sha256."""

    name: str
    offset: int
    length: int
    sha256: str

    @property
    def ending(self) -> str:
        return self.name.rpartition(".")[2].lower()


@dataclass
class TarSample:
    """A sample of a tar file.

    Attributes:
        key: its name.
        media: videos and pictures, in the order of the file.
        texts: captions by the ending of their member, `txt` or `json`.
        frames: media are the frames of one clip, in their order.
    """

    key: str
    media: list[TarMember] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    frames: bool = False

    @property
    def captions(self) -> list[str]:
        """Returns what is said about the sample, without placeholders."""
        found = self.texts.get("txt") or self.texts.get("json") or []
        return [text for text in found if text and not says_nothing(text)]

    @property
    def useless(self) -> str:
        """Returns why the sample is left out; empty if it is not."""
        if not self.media:
            return "without_video"
        if self.captions:
            return ""
        return "silent" if any(any(texts) for texts in self.texts.values()) else "empty"

    @property
    def folder(self) -> str:
        return self.key.rpartition("/")[0]


def samples_of(tar: Path) -> list[TarSample]:
    """Returns the samples of a tar file, in the order of their first members; reads all of it.

    Raises:
        DataError: the file is damaged, cut off or compressed.
    """
    samples: dict[str, TarSample] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                if not member.isfile() or name.startswith("."):  # what a file manager leaves behind
                    continue
                stem, _, ending = name.partition(".")
                key = unicodedata.normalize("NFC", f"{folder}/{stem}" if folder else stem)
                _add(samples.setdefault(key, TarSample(key)), archive, member, ending.lower())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{tar} is damaged or cut off ({error}): copy it again.") from error
    for sample in samples.values():
        _choose(sample)
    return list(_with_folders(samples).values())


def _add(sample: TarSample, archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> None:
    last = ending.rpartition(".")[2]
    if last in (*VIDEOS, *PICTURES, *MOVING_PICTURES):
        if member.issparse():
            raise tarfile.ReadError(f"{member.name} is stored with holes")
        sha256 = _sha256(archive, member)
        sample.media = [earlier for earlier in sample.media if earlier.name != member.name]
        sample.media.append(TarMember(member.name, member.offset_data, member.size, sha256))
    elif ending in ("txt", "json"):
        file = archive.extractfile(member)
        content = _text(file.read() if file else b"")
        sample.texts[ending] = [content] if ending == "txt" else _json_captions(content)


def _text(content: bytes) -> str:
    """Returns a text of UTF-8 or UTF-16; empty if it is in another encoding, or damaged."""
    wide = content[:2] in UTF_16
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        return ""
    return text.strip().strip("\0").strip()


def _sha256(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    sha, left = hashlib.sha256(), member.size
    file = archive.extractfile(member)
    while file is not None and left:
        content = file.read(min(left, READ_AT_ONCE))
        if not content:
            raise tarfile.ReadError(f"{member.name} is cut off")
        sha.update(content)
        left -= len(content)
    return sha.hexdigest()


def _json_captions(content: str) -> list[str]:
    try:
        record = json.loads(content)
    except ValueError:
        return []
    for key in CAPTION_KEYS if isinstance(record, dict) else ():
        value = record.get(key)
        texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        if texts and all(isinstance(text, str) for text in texts):
            return [text.strip() for text in texts]
    return []


def _choose(sample: TarSample) -> None:
    """Leaves the member that is meant: a video before a GIF, numbered frames, a picture.

    Pictures next to a video are thumbnails; those next to a picture are masks and the like.
    """
    for kind in (VIDEOS, MOVING_PICTURES):
        found = [member for member in sample.media if member.ending in kind]
        if found:
            sample.media = found[:1]
            return
    numbered = [m for m in sample.media if PurePosixPath(m.name).name.count(".") > 1]
    frames = _in_order(numbered) if len(numbered) > 1 else None
    if frames is not None:
        sample.media, sample.frames = frames, True
    else:
        plain = [member for member in sample.media if member not in numbered]
        sample.media = (plain or sample.media)[:1]


def _in_order(members: Sequence[TarMember]) -> list[TarMember] | None:
    """Returns pictures in the order of their numbers; None if they are not numbered alike."""
    names = [PurePosixPath(member.name).name for member in members]
    kinds = {DIGITS.sub("%d", name.rpartition(".")[0]) for name in names}
    if len(kinds) > 1 or not any("%d" in kind for kind in kinds):
        return None
    try:
        return [members[number] for number in frame_order(names)]
    except ValueError:
        return None


def _with_folders(samples: Mapping[str, TarSample]) -> dict[str, TarSample]:
    """Returns the samples; the pictures of a folder with one caption are one of them.

    A folder is left as it is if any of its pictures has a caption of its own.
    """
    pictures, texts = defaultdict(list), defaultdict(list)
    for sample in samples.values():
        if sample.media and sample.folder:
            pictures[sample.folder].append(sample)
        elif sample.texts and not sample.media:
            texts[sample.folder].append(sample)
    within = Counter(folder.rpartition("/")[0] for folder in pictures)
    clips: dict[str, TarSample | None] = {}  # by the keys of the samples that they replace
    for folder, members in pictures.items():
        above = folder.rpartition("/")[0]
        places = [folder, *([above] if above and within[above] == 1 else [])]
        text = next(filter(None, (_caption_of(place, samples, texts) for place in places)), None)
        bare = all(not s.texts and not s.frames and s.media[0].ending in PICTURES for s in members)
        frames = _in_order([sample.media[0] for sample in members]) if bare and text else None
        if text is not None and frames is not None:
            clip = TarSample(folder, frames, text.texts, frames=True)
            clips |= dict.fromkeys((sample.key for sample in members), clip) | {text.key: None}
    found: dict[str, TarSample] = {}
    for key, sample in samples.items():
        kept = clips.get(key, sample)
        if kept is not None:
            found.setdefault(kept.key, kept)
    return found


def _caption_of(
    place: str, samples: Mapping[str, TarSample], texts: Mapping[str, Sequence[TarSample]]
) -> TarSample | None:
    """Returns the sample that holds the caption of a folder: FOLDER.txt, or its only text."""
    own = samples.get(place)
    if own is not None and own.texts and not own.media:
        return own
    inside = texts.get(place, ())
    return inside[0] if len(inside) == 1 else None
