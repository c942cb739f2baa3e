"""What the tests share: a `--long` option, small images and data sets made on the spot, and ways to run `edit`."""

from __future__ import annotations

import os

# Two workers on two cores: threads of the libraries would only wait for each other, and busily at that.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import contextlib
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

# Tests of one room use helpers of another.
sys.path.extend(str(folder) for folder in sorted({file.parent for file in Path(__file__).parent.rglob("*.py")}))
from forge import Child, Forge

# A shell ignores Ctrl-C for what it starts in the background, and tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# Files whose tests start processes, train, or let a language model write: `make test-fast` leaves them out.
SLOW = {
    "test_architectures.py", "test_batches.py", "test_benchmarks.py", "test_budget.py", "test_clients.py",
    "test_consistency.py", "test_dpo.py", "test_embedders.py", "test_examples.py", "test_extension.py",
    "test_frozen.py", "test_fuzz.py", "test_gpu.py", "test_heldout.py", "test_help_examples.py", "test_judge.py",
    "test_loading_memory.py", "test_local_captioner.py", "test_lora_files.py", "test_mapped.py",
    "test_mixed_references.py", "test_nft.py", "test_parallel.py", "test_previews.py", "test_quiet.py",
    "test_ranking.py", "test_ray.py", "test_reading_costs.py", "test_registration.py", "test_remote.py",
    "test_rendered.py", "test_reply_parallel.py", "test_rollouts.py", "test_row_index.py", "test_run_folder.py",
    "test_saving.py", "test_several.py", "test_step1x_sampler.py", "test_step1x_weights.py", "test_study.py",
    "test_study_serve.py", "test_survival.py", "test_trackers.py", "test_train.py", "test_trained_models.py",
    "test_wheels.py",
}  # fmt: skip
EDIT = os.path.join(os.path.dirname(sys.executable), "edit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the long variants")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="needs --long"))
        processes = {"edit", "model_edit", "forge", "model_forge"} & set(getattr(item, "fixturenames", ()))
        if processes or item.path.name in SLOW:
            item.add_marker(pytest.mark.fleet)


# ---------------------------------------------------------------- images


def pixels(seed: int, height: int = 32, width: int = 40) -> np.ndarray:
    """A smooth colourful image with some grain, so that JPEG keeps it roughly as it is."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def encode(array: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def image(seed: int, kind: str = "JPEG", height: int = 32, width: int = 40) -> bytes:
    return encode(pixels(seed, height, width), kind)


def put(path: Path, data: bytes | str) -> Path:
    """A file, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def make_crawl(folder: Path, count: int = 24) -> dict[str, bytes]:
    """A folder of images, every third with a caption beside it: {path inside: bytes} of the images."""
    made = {}
    for k in range(count):
        kind, ending = (("JPEG", "jpg"), ("PNG", "png"))[k % 4 == 3]
        inside = f"{'ab'[k % 2]}/p{k:03d}.{ending}"
        made[inside] = image(k, kind)
        path = folder / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made[inside])
        if k % 3 == 0:
            path.with_suffix(".txt").write_text(f"caption {k}\n" if k % 2 else f"图片 {k}\n")
    return made


# ---------------------------------------------------------------- running


@dataclass
class Result:
    code: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.stdout.splitlines()]


@contextlib.contextmanager
def opened(where: Any) -> Iterator[int]:
    """A descriptor for what a test gives as stdin or stdout: bytes, a path, a descriptor, or None for nothing."""
    if isinstance(where, int):
        yield where
    elif isinstance(where, bytes):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as feeder:
            import threading

            def feed() -> None:
                assert feeder.stdin is not None
                with contextlib.suppress(OSError):
                    feeder.stdin.write(where)
                with contextlib.suppress(OSError):
                    feeder.stdin.close()

            thread = threading.Thread(target=feed, daemon=True)
            thread.start()
            assert feeder.stdout is not None
            yield feeder.stdout.fileno()
            feeder.kill()
            thread.join()
    else:
        with open(where or os.devnull, "rb") as file:
            yield file.fileno()


class Runner:
    """`edit(*arguments)` runs the command, checks its exit status, and that it never shows a traceback."""

    def __init__(self, forge: Forge, folder: Path) -> None:
        self.forge, self.folder, self.number = forge, folder, 0

    def _log(self) -> Path:
        self.number += 1
        return self.folder / f"{self.number}"

    def start(
        self,
        *arguments: Any,
        stdin: int,
        stdout: int,
        stderr: int,
        cwd: Any = None,
        env: Any = None,
        group: int | None = None,
    ) -> Child:
        return self.forge.start(
            [str(a) for a in arguments], stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, group=group
        )

    def __call__(
        self,
        *arguments: Any,
        stdin: Any = None,
        cwd: Any = None,
        check: int | None = 0,
        env: Any = None,
        pipe: bool = True,
        stdout: Any = None,
        timeout: float = 120,
    ) -> Result:
        """With `pipe` standard output is a pipe, otherwise a regular file; `stdout` is a descriptor to use instead."""
        log = self._log()
        collector = None
        with opened(stdin) as source, open(f"{log}.err", "wb") as errors, open(f"{log}.out", "wb") as file:
            if stdout is not None:
                target = stdout
            elif pipe:
                collector = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
                assert collector.stdin is not None
                target = collector.stdin.fileno()
            else:
                target = file.fileno()
            child = self.start(*arguments, stdin=source, stdout=target, stderr=errors.fileno(), cwd=cwd, env=env)
            if collector is not None:
                collector.stdin.close()  # type: ignore[union-attr]
            code = child.wait(timeout)
            if collector is not None:
                collector.wait()
        result = Result(code, Path(f"{log}.out").read_bytes(), Path(f"{log}.err").read_text("utf-8", "replace"))
        self.judge(result, arguments, check)
        return result

    @staticmethod
    def judge(result: Result, arguments: Any, check: int | None) -> None:
        assert "Traceback" not in result.stderr, f"{arguments}\n{result.stderr}"
        if check is not None:
            assert result.code == check, f"{arguments}: exit {result.code}\n{result.stderr}"

    def pipe(
        self,
        *commands: list[Any],
        stdin: Any = None,
        cwd: Any = None,
        check: list[int | None] | None = None,
        env: Any = None,
    ) -> list[Result]:
        """`a | b | c`; what the last one writes is in its Result."""
        log = self._log()
        children: list[Child] = []
        with contextlib.ExitStack() as stack:
            before = stack.enter_context(opened(stdin))
            for k, command in enumerate(commands):
                errors = stack.enter_context(open(f"{log}-{k}.err", "wb"))
                if k == len(commands) - 1:
                    file = stack.enter_context(open(f"{log}.out", "wb"))
                    collector = stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file))
                    assert collector.stdin is not None
                    reader, writer = -1, os.dup(collector.stdin.fileno())
                    collector.stdin.close()
                else:
                    reader, writer = os.pipe()
                children.append(
                    self.start(*command, stdin=before, stdout=writer, stderr=errors.fileno(), cwd=cwd, env=env)
                )
                os.close(writer)
                if k:
                    os.close(before)
                before = reader
            codes = [child.wait() for child in children]
            collector.wait()
        results = [
            Result(code, b"", Path(f"{log}-{k}.err").read_text("utf-8", "replace")) for k, code in enumerate(codes)
        ]
        results[-1].stdout = Path(f"{log}.out").read_bytes()
        for k, result in enumerate(results):
            self.judge(result, commands[k], check[k] if check is not None else 0)
        return results


@pytest.fixture(autouse=True)
def usual_arithmetic() -> None:
    """A command that ran in this process may have set torch's threads, or diffusers' attention for all models, and with
    them the last bits of every sum."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    if (attention := sys.modules.get("diffusers.models.attention_dispatch")) is not None:
        attention._AttentionBackendRegistry.set_active_backend(attention.AttentionBackendName.NATIVE)


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    made = Forge()
    yield made
    made.close()


# What training, sampling and the filters with models import: ten seconds of processor time.
_MODELS = (
    "torch", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict", "edittools.train.console",
    "edittools.nets.run_folder", "edittools.nets.pipeline_editor", "edittools.nets.architecture_editor",
    "edittools.nets.small", "edittools.sample.stage", "edittools.encoders.embedders.clip",
    "edittools.encoders.embedders.dinov2", "edittools.encoders.classifier", "edittools.filter.regions",
    "transformers.models.auto.modeling_auto", "transformers.models.clip.modeling_clip",
    "transformers.models.clip.image_processing_pil_clip", "transformers.models.clip.tokenization_clip",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "diffusers.models.transformers.transformer_qwenimage", "diffusers.models.autoencoders.autoencoder_kl_qwenimage",
)  # fmt: skip


@pytest.fixture(scope="session")
def model_forge() -> Iterator[Forge]:
    made = Forge(*_MODELS)
    yield made
    made.close()


@pytest.fixture(scope="session")
def model_edit(model_forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """`edit` whose processes have torch, transformers and diffusers already."""
    return Runner(model_forge, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="session")
def session_edit(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(forge, tmp_path_factory.mktemp("logs"))


@pytest.fixture
def edit(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(forge, tmp_path_factory.mktemp("logs"))


# ---------------------------------------------------------------- data sets


@pytest.fixture(scope="session")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 loose images, some with captions."""
    folder = tmp_path_factory.mktemp("data") / "crawl"
    make_crawl(folder)
    return folder


@pytest.fixture(scope="session")
def shards(session_edit: Runner, crawl: Path) -> Path:
    """3 shards of 8 rows."""
    folder = crawl.parent / "shards"
    session_edit("shard", crawl, "-o", folder, "--rows", 8)
    return folder


@pytest.fixture(scope="session")
def wheel() -> None:
    """The weights of mediapipe's wheel, fetched once; where they cannot be had, the test is skipped."""
    pytest.importorskip("ai_edge_litert")
    from edittools.errors import EditError
    from edittools.weights.wheels import fetch, present

    try:
        if present("mediapipe") is None:
            fetch("mediapipe")
    except EditError as error:
        pytest.skip(f"the wheel of mediapipe cannot be had here: {error}")


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A photograph of a person, 512 x 512."""
    return np.asarray(pytest.importorskip("skimage.data").astronaut())


# ---------------------------------------------------------------- looking at what was written


def digest(data: bytes) -> str:
    """What two equal contents have in common, short enough for a failed comparison to be read."""
    return f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()[:16]}"


def tree(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    """Every file of a folder with a digest of its bytes."""
    return {str(p.relative_to(folder)): digest(p.read_bytes()) for p in sorted(folder.glob(pattern)) if p.is_file()}


def rows_of(folder: Path) -> list[dict]:
    """The rows of a shard set by pyarrow alone, their images replaced by the bytes in the tar."""
    rows = []
    for path in sorted(folder.glob("*.parquet")):
        data = path.with_suffix(".tar").read_bytes()

        def resolve(value: Any, data: bytes = data) -> Any:
            if isinstance(value, dict):
                if value.keys() == {"offset", "length", "width", "height", "format"}:
                    return data[value["offset"] : value["offset"] + value["length"]]
                return {name: resolve(item) for name, item in value.items()}
            return [resolve(item) for item in value] if isinstance(value, list) else value

        rows += [resolve(row) for row in pq.read_table(path).to_pylist()]
    return rows


def rejects_of(folder: Path) -> list[dict]:
    files = sorted((folder / "_rejects").glob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines()]


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    """A tar written by the standard library."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
