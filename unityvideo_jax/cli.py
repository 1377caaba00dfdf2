"""The start of every program, where a user's error becomes one line."""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from unityvideo_jax.errors import UserError, raised_by
from unityvideo_jax.files import disk, paths, stores
from unityvideo_jax.files.escape import Terminal
from unityvideo_jax.parallel import device_memory
from unityvideo_jax.runtime import seeds, signals
from unityvideo_jax.settings import presets

# Flags that are defined here are the programs': `--help` lists them.
flags.disclaim_key_flags()

# Flags of `define_pipeline` that choose among a run's weights, and all of them.
RUN_FLAGS = ("checkpoint_step", "fallback", "ema")
PIPELINE_FLAGS = (*RUN_FLAGS, "vae", "vae_dtype", "text_encoder", "lora", "hold_weights")

# Flags of absl itself that add up.
SEVERAL = ("flagfile", "undefok")

# What a device has no room for where nothing nearer to it says so, and what to do.
NO_ROOM = "what was computed", "take fewer samples at once, frames or pixels"

CACHE = "~/.cache/unityvideo_jax/compiled"


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs an absl program; errors that a user can fix print one line and exit with status 2.

    The line is `error: ...`. Such errors are a `UserError`, a refusal of a disk that is full,
    read-only, broken or not ours, or of a device that has no room. SIGTERM and Ctrl-C end the
    program at once with status 143 and 130; training saves first.
    Paths that the program writes are tried before `main` is called; flags that name URLs of object
    stores then hold their places on this machine (`files.stores`). Modules named by `--plugins`
    are imported first, so that their modalities are known. Programs that JAX compiles are stored in
    `CACHE`, or where JAX_COMPILATION_CACHE_DIR says, so that the next program starts faster.
    """

    def guarded(argv: Sequence[str]) -> None:
        # Names and captions from data are printed; none may steer the terminal.
        sys.stdout, sys.stderr = Terminal(sys.stdout), Terminal(sys.stderr)
        if len(argv) > 1:
            _leave(f"unexpected argument {argv[1]!r}; give options as --name=value")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        outputs = _outputs()
        where = outputs[0][0].value if outputs else None
        try:
            with (
                signals.heard(signals.end),
                disk.explained(where),
                stores.session(),
                device_memory.explained(*NO_ROOM),
            ):
                store_compiled()
                for flag, kind in outputs:
                    paths.check_output(f"--{flag.name}={flag.value}", flag.value, kind)
                _localise()
                for name in flags.FLAGS.plugins:
                    _import(name)
                main(argv)
        except UserError as error:
            _leave(str(error))

    try:
        os.getcwd()
    except OSError:
        _leave("the current folder was deleted; change to another one")
    flags.DEFINE_list("plugins", [], "Modules of your own to import, which register modalities.")
    app.run(guarded, flags_parser=_parse)


class _PathParser(flags.ArgumentParser):
    """Expands a path; `writes` says whether the program writes it, and as what."""

    def __init__(self, writes: Literal["folder", "file"] | None):
        self.writes = writes

    def parse(self, argument: str) -> str:
        return paths.expand(argument)


def define_path(
    name: str,
    default: str | None,
    help: str,
    *,
    writes: Literal["folder", "file"] | None = None,
    **options: Any,
) -> flags.FlagHolder:
    """Defines a flag whose value is a path: `~` is expanded, and outputs are tried beforehand.

    Args:
      name, default, help: as absl's.
      writes: kind of output at the path; None if the program only reads it.
      options: as absl's, such as required.
    """
    return flags.DEFINE(_PathParser(writes), name, default, help, **options)


class _ConfigParser(ConfigFileFlagParser):
    """Reads the file that a path or the name of a preset means; no key can be added to it."""

    def parse(self, path: str) -> ml_collections.ConfigDict:
        return presets.load_config(path).lock()


def refuse(names: Iterable[str], why: str) -> None:
    """Raises UserError for the first of these flags that is given, since nothing would read it.

    Args:
      names: of flags.
      why: what the message says after the flag.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise UserError(f"--{name}: {why}")


def define_config(help: str) -> flags.FlagHolder:
    """Defines --config, a file or a preset by name; --config.key=value overrides its values."""
    help += f" A file, or one of: {', '.join(presets.names())}."
    holder = config_flags.DEFINE_config_file("config", None, help)
    flags.FLAGS["config"].parser = _ConfigParser("config")
    return holder


def define_pipeline() -> None:
    """Defines the flags that name the weights to sample from, for `load_pipeline`."""
    define_path("workdir", None, "Workdir of a training run.")
    define_path(
        "pretrained",
        None,
        "Instead of a run: a model's folder, the name of one that ships, or its id on the hub.",
    )
    flags.DEFINE_integer("checkpoint_step", None, "Which checkpoint; the latest if left out.")
    flags.DEFINE_bool(
        "fallback", False, "If the checkpoint is damaged, take the newest whole one before it."
    )
    flags.DEFINE_bool("ema", True, "Use the run's averaged weights.")
    define_path("vae", None, "Folder of the VAE, instead of config.data.vae.")
    flags.DEFINE_enum(
        "vae_dtype",
        "float32",
        ("float32", "bfloat16"),
        "In which the VAE computes; bfloat16 is faster on accelerators and rounds.",
    )
    flags.DEFINE_string("text_encoder", None, "Text encoder, instead of config.data.text_encoder.")
    flags.DEFINE_multi_string(
        "lora", [], "Adapter to merge into the weights, FILE or FILE:WEIGHT; may be repeated."
    )
    flags.DEFINE_enum(
        "hold_weights",
        None,
        ("bfloat16", "int8", "nf4"),
        "Hold the transformer's matrices in fewer bits than float32.",
    )


def load_pipeline() -> Any:
    """Loads the `Pipeline` that the flags of `define_pipeline` name, with its adapters.

    Raises:
      UserError: not exactly one of --workdir and --pretrained, or weights or an adapter that do
        not load.
    """
    from unityvideo_jax.sampling.adapters import parse

    pipeline = _load_weights()
    pipeline.add_adapters(
        *((paths.expand(path), weight) for path, weight in map(parse, flags.FLAGS.lora))
    )
    if flags.FLAGS.hold_weights:
        pipeline.hold_weights(flags.FLAGS.hold_weights)
    return pipeline


def _load_weights() -> Any:
    from unityvideo_jax.sampling.pipeline import Pipeline

    args = flags.FLAGS
    if bool(args.workdir) == bool(args.pretrained):
        raise UserError("give either --workdir=RUN or --pretrained=FOLDER_OR_NAME")
    parts = {name: args[name].value for name in ("vae", "vae_dtype", "text_encoder")}
    if args.workdir:
        return Pipeline.from_workdir(
            args.workdir,
            step=args.checkpoint_step,
            use_ema=args.ema,
            fallback=args.fallback,
            **parts,
        )
    refuse(RUN_FLAGS, "is for --workdir, a model has one set of weights; drop it")
    return Pipeline.from_pretrained(args.pretrained, **parts)


def weights_of(pipeline: Any) -> dict[str, Any]:
    """The facts that a result's record holds of the weights that the flags name."""
    args = flags.FLAGS
    return {
        "workdir": args.workdir,
        "pretrained": args.pretrained,
        "checkpoint_step": pipeline.step,
        "ema": args.ema,
        "adapters": pipeline.adapters,
        "hold_weights": args.hold_weights,
        "vae_dtype": args.vae_dtype,
    }


def command(program: str) -> list[str]:
    """The words that started this process, as records hold them.

    Args:
      program: its module in this package.
    """
    return ["python", "-m", f"unityvideo_jax.{program}", *sys.argv[1:]]


def define_seed(name: str, help: str) -> flags.FlagHolder:
    """Defines a flag whose value is a seed, 0 by default."""
    return flags.DEFINE_integer(name, 0, help, lower_bound=0, upper_bound=seeds.COUNT - 1)


def _paths() -> list[flags.Flag]:
    every = [flags.FLAGS[name] for name in flags.FLAGS]
    return [f for f in every if isinstance(f.parser, _PathParser) and f.value is not None]


def _outputs() -> list[tuple[flags.Flag, str]]:
    return [(flag, flag.parser.writes) for flag in _paths() if flag.parser.writes]


def _localise() -> None:
    """Puts in place of URLs, in flags that are paths, where this machine has what is there."""
    for flag in _paths():
        if stores.url(flag.value):
            flag.value = str(stores.local(flag.value, writes=bool(flag.parser.writes)))


def read_config(value: ml_collections.ConfigDict | None) -> ml_collections.ConfigDict | None:
    """Reads a --config flag, its references resolved and `~` in its paths expanded."""
    config = value and value.copy_and_resolve_references()
    if config is not None:
        with config.unlocked():
            _expand_within(config)
    return config


def _expand_within(tree: ml_collections.ConfigDict) -> None:
    for key, value in tree.items():
        if isinstance(value, ml_collections.ConfigDict):
            _expand_within(value)
        elif isinstance(value, str) and value.startswith("~"):
            tree[key] = paths.expand(value)
        elif isinstance(value, tuple) and any(isinstance(v, str) for v in value):
            tree[key] = tuple(paths.expand(v) if isinstance(v, str) else v for v in value)


def store_compiled() -> None:
    """Sets JAX's cache of compiled programs, if this user has a home; short ones count too.

    A start compiles dozens of programs of less than JAX's threshold of a second.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            jax.config.update("jax_compilation_cache_dir", paths.expand(CACHE))
        except UserError:
            print("compiled programs are not stored: the home folder is not known", flush=True)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--plugins={name}: no module {error.name!r}; start in its folder or set PYTHONPATH"
        ) from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--plugins={name}: does not import, {raised_by(error)}") from error


def _leave(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _check_repeated(words: Sequence[str]) -> None:
    """Raises UserError for a flag of one value that a command gives two, of which one would count.

    Of `--config.key`, as of a flag in a file of flags, the last one counts.
    """
    given: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        found = re.fullmatch(r"--?([\w-]+)(?:=(.*))?", word, re.DOTALL)
        name, value = found.groups() if found else ("", None)
        if name not in flags.FLAGS and name.startswith("no"):
            name, value = name.removeprefix("no"), "false"
        if name not in flags.FLAGS or name in SEVERAL:
            continue
        flag = flags.FLAGS[name]
        if value is None:
            value = "true" if flag.boolean else next(rest, "")
        if not isinstance(flag, flags.MultiFlag) and given.setdefault(name, value) != value:
            raise UserError(f"--{name}: given as {given[name]} and as {value}; leave one out")


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """Parses flags; one that does not exist, also inside --config, is one line with its nearest."""
    try:
        _check_repeated(argv[1:])
        return flags.FLAGS(argv)
    except (flags.Error, ValueError) as error:
        missing = re.findall(r"Flag (--\w+) must have a value other than None", str(error))
        _leave(f"give {' and '.join(missing)}; see --help" if missing else str(error))
    except (AttributeError, KeyError) as error:
        # What ml_collections raises for an override of a key that the config lacks.
        key = str(error.args[0]).replace("\\n", ". ").replace("\\", "").replace("'", "")
        _leave(f"--config: no such key {key}")
