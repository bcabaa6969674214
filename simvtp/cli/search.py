"""Commands that embed, index, search and describe films with the model of a run."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.cli import add
from simvtp.console import printable
from simvtp.errors import UserError

if TYPE_CHECKING:
    from simvtp.cli import Commands
    from simvtp.library.video_text_model import VideoTextModel

MODEL = "a run directory, the name of one in runs/, or an exported folder"


def register(commands: Commands) -> None:
    """Adds the commands of this group."""
    command = add(commands, "embed", "features of films: one unit vector each, in a file")
    command.add_argument("videos", nargs="+", metavar="VIDEO", help="files of films")
    command.add_argument("--model", required=True, help=MODEL)
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="FILE.npz (arrays features [n, D] and paths) or FILE.safetensors",
    )
    _add_choices(command)
    command.set_defaults(handle=_embed)

    command = add(
        commands,
        "index",
        "features of all films of a folder, for `search`; goes on after a kill, and decodes only "
        "films that are new or have changed",
    )
    command.add_argument("folder", type=Path)
    command.add_argument("--model", required=True, help=MODEL)
    command.add_argument("--out", type=Path, required=True, help="file of the index")
    _add_choices(command)
    command.set_defaults(handle=_index)

    command = add(commands, "search", "films of an index that are closest to a text")
    command.add_argument("text")
    command.add_argument("--index", type=Path, required=True, help="file that `index` has written")
    command.add_argument("--model", default="", help=f"{MODEL} (default: the one of the index)")
    command.add_argument("-k", type=int, default=5, help="films that are shown (default 5)")
    command.add_argument("--json", action="store_true", help="print a JSON list")
    command.add_argument("--html", type=Path, help="also write a page with moving previews")
    command.add_argument("--gif", type=Path, help="also write the films found as a moving picture")
    _add_choices(command)
    command.set_defaults(handle=_search)

    command = add(
        commands,
        "predict",
        "what the model of a run says of films: answers, classes, spans, the closest of some texts",
    )
    command.add_argument("model", metavar="RUN", help=MODEL)
    command.add_argument("videos", nargs="+", metavar="VIDEO", help="files of films")
    command.add_argument("--question", default="", help="question, or the sentence to find")
    command.add_argument(
        "--choice",
        action="append",
        default=[],
        dest="choices",
        help="a text to choose from; once for each",
    )
    command.add_argument("-k", type=int, default=5, help="answers that are shown (default 5)")
    command.add_argument("--json", action="store_true", help="print a JSON list")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    command.set_defaults(handle=_predict)


def _add_choices(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--training",
        default="",
        help="of a run: pretrain or finetune (default: finetune of a retrieval run, else pretrain)",
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _model(options: argparse.Namespace, source: str) -> VideoTextModel:
    from simvtp.library.open_model import load

    return load(source, training=options.training, device=options.device)


def _embed(options: argparse.Namespace) -> int:
    import numpy as np
    import safetensors.torch

    from simvtp.runs.atomic_files import write_atomically

    if options.out.suffix not in (".npz", ".safetensors"):
        raise UserError(f"--out {options.out}: give a file that ends with .npz or .safetensors.")
    features = _model(options, options.model).encode_video(options.videos)
    if options.out.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, features=features.numpy(), paths=np.array(options.videos))
        write_atomically(options.out, buffer.getvalue())
    else:
        metadata = {"paths": json.dumps(options.videos)}
        write_atomically(
            options.out, safetensors.torch.save({"features": features.contiguous()}, metadata)
        )
    print(f"{len(features)} features of length {features.shape[1]} written to {options.out}")
    return 0


def _index(options: argparse.Namespace) -> int:
    index = _model(options, options.model).index(options.folder, save=options.out)
    for path, reason in index.unreadable.items():
        print(printable(f"not read: {path}: {reason}"))
    print(f"{len(index)} films indexed, {len(index.unreadable)} not read: {options.out}")
    return 0


def _search(options: argparse.Namespace) -> int:
    from simvtp.library.video_index import load_index

    index = load_index(options.index)
    if not options.model and not Path(index.source).exists():
        raise UserError(
            f"the model that made {options.index} is not at {index.source} any more: name it with "
            "--model."
        )
    if not (options.model or options.training):
        options.training = index.training
    model = _model(options, options.model or index.source)
    hits = model.search(options.text, index, options.k)
    if options.json:
        print(json.dumps([dataclasses.asdict(hit) for hit in hits], indent=1))
    else:
        for hit in hits:
            print(printable(f"{hit.rank:>3}  {hit.score:6.3f}  {hit.path}"))
    if options.html:
        from simvtp.library.search_page import write_search_page

        write_search_page(model, options.text, hits, options.html)
        if not options.json:
            print(f"page written to {options.html}")
    if options.gif:
        from simvtp.library.search_picture import write_search_picture

        write_search_picture(model, {options.text: hits}, options.gif)
        if not options.json:
            print(f"picture written to {options.gif}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from simvtp.library.prediction.open_predictor import load_predictor
    from simvtp.library.prediction.predicted_answers import prediction_lines

    model = load_predictor(options.model, device=options.device)
    found = model.predict(options.videos, options.question, options.choices, options.k)
    if options.json:
        print(json.dumps([dataclasses.asdict(prediction) for prediction in found], indent=1))
    else:
        for line in prediction_lines(found):
            print(line)
    return 0
