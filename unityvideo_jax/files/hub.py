"""Repositories of the Hugging Face hub by their ids, such as `Wan-AI/Wan2.1-T2V-1.3B-Diffusers`.

`huggingface_hub` does the work, an extra of this package, so its settings hold: HF_HOME has the
cache, HF_TOKEN or `hf auth login` the account, HF_HUB_OFFLINE=1 takes what the cache has.
"""

import importlib.util
import os
import pathlib
import re
from collections.abc import Sequence

from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import stores

ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Suffixes of files, which no repository has.
FILES = (".safetensors", ".json", ".pth", ".mp4", ".png")


def local(name: str | os.PathLike, files: Sequence[str], but: Sequence[str] = ()) -> pathlib.Path:
    """The local folder of what a user named: a path, a URL of a store, or an id of the hub.

    Args:
      name: what is there as a file or folder comes first. An id may end in `@` and a revision: a
        branch, a tag or a commit.
      files: patterns of the files that are needed; no others are fetched. `*` spans folders too.
      but: patterns of files that are not needed although they fit.

    Returns:
      For a name that is no id, the path of that name, where nothing may be.

    Raises:
      UserError: an id that the hub does not have or does not give to this account, no network, or
        no `huggingface_hub`.
    """
    path = stores.local(name)
    found = ID.fullmatch(os.fspath(name))
    if found is None or path.exists() or path.suffix in FILES or path.parts[0] in (".", ".."):
        return path
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(
            f"{name}: no such file or folder; if it is an id of the Hugging Face hub, "
            "pip install 'unityvideo_jax[hub]'"
        )
    import huggingface_hub
    from huggingface_hub import constants, errors

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                found["id"],
                revision=found["revision"],
                allow_patterns=list(files),
                ignore_patterns=list(but),
            )
        )
    except errors.GatedRepoError as error:
        fault = (
            f"the hub gives it to accounts that have asked for it: ask at "
            f"https://huggingface.co/{found['id']}, then `hf auth login` or set HF_TOKEN"
        )
        raise UserError(f"{name}: {fault}") from error
    except errors.RepositoryNotFoundError as error:
        fault = "nor on the Hugging Face hub, for this account; check the name, or set HF_TOKEN"
        raise UserError(f"{name}: no such file or folder, {fault}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{name}: the hub has no revision {found['revision']!r} of {found['id']}; name a "
            "branch, a tag or a commit after the @"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        cache = constants.HF_HUB_CACHE
        raise UserError(
            f"{name}: no such file or folder, it is not in the cache {cache}, and the Hugging Face "
            "hub cannot be asked: this machine is offline or HF_HUB_OFFLINE is set. Download it "
            "once with a network, or copy the cache here and set HF_HOME"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, ValueError, OSError) as error:
        raise UserError(
            f"{name}: no such file or folder, and the Hugging Face hub does not give it "
            f"({reason(error)})"
        ) from error
