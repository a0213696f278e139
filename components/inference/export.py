"""Models as ONNX graphs, checked against themselves, and called as the models are.

A graph a function, `NAME.onnx`: two towers have one for pictures and one for texts. Batch and length are free. The
recogniser's graph begins at its features, which torch goes on computing: serving hears what training heard, to the bit.
A decoder's is its pass over whole rows, to score them; decoding with a cache stays torch's.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.contrastive.towers import TwoTowers
from components.decoders.causal import CausalDecoder
from components.encoders.classifier import Classifier
from components.encoders.encoded import Encoder
from components.encoders.image import ImageEncoder
from components.encoders.recogniser import Recogniser
from components.encoders.text import TextEncoder

PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # the extra `onnx`
TOLERANCE = 1e-4  # relative and absolute: fp32 sums in another order
TRACED = (2, 12)  # batch and length of the example: torch takes sizes of 0 and 1 for fixed ones
AXES = ("batch", "length")
CHECKED = ((1, 0.0), (3, 0.3), (2, 1.0))  # batch, and length between the shortest and the longest


@dataclass(frozen=True)
class Graph:
    """One function of a model. `make`: example inputs of a batch and a length; `free`: the free axes of each input."""

    call: Callable[..., Any]
    make: Callable[[int, int], tuple[Tensor, ...]]
    free: dict[str, tuple[str, ...]]  # input -> what its first axes are: batch, length
    lengths: tuple[int, int] = (1, 1)  # the shortest and the longest


class _Forward(nn.Module):
    """A function as the forward of a module, which is what torch.export takes."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(*inputs)


def graphs(model: nn.Module) -> dict[str, Graph]:
    """The functions of a model that become graphs. ValueError for a model that has none."""
    match model:
        case TwoTowers(image=ImageEncoder() as image, text=TextEncoder() as text):
            return {"embed_images": _images(model.embed_images, image), "embed_texts": _texts(model.embed_texts, text)}
        case Classifier(encoder=TextEncoder() as encoder):
            return {"model": _texts(model, encoder)}
        case Classifier(encoder=ImageEncoder() as encoder):
            return {"model": _images(model, encoder)}
        case TextEncoder():
            return {"model": _texts(lambda ids, mask: _parts(model, ids, mask), model)}
        case Recogniser():
            return {"model": _sounds(model)}
        case CausalDecoder():
            ids = _ids(model.embedding.num_embeddings)
            return {"model": Graph(_all_real(model), lambda b, n: (ids(b, n),), {"ids": AXES}, (1, model.context))}
    raise ValueError(
        f"onnx: a {type(model).__name__} has no graph here: export a text encoder, a classifier of texts or pictures, "
        "two towers of the own stack, a recogniser or a causal decoder"
    )


def export(model: nn.Module, folder: Path, tolerance: float = TOLERANCE) -> list[Path]:
    """Write a graph for each function, each whole or not at all, and give their paths. The model is in eval mode.

    Raises:
        RuntimeError: a package of the extra `onnx` is missing.
        ValueError: a part of the model has no counterpart in ONNX, or a graph's outputs differ by more than `tolerance`
            (relative and absolute) from the model's for one of several batches and lengths.
    """
    check_packages()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, graph in graphs(model).items():
        path, partial = folder / f"{name}.onnx", folder / f".{name}.onnx.partial"
        try:
            partial.write_bytes(_traced(model, name, graph))
            _check(partial, graph, name, tolerance)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        paths.append(path)
    return paths


def check_packages() -> None:
    """RuntimeError where the extra `onnx` is not installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise RuntimeError(
            f"onnx: {', '.join(missing)} is not installed: install the extra, pip install 'tsumugi[onnx]'"
        )


def session(path: Path) -> Any:
    """onnxruntime's session of a file, with as many threads as torch has. ValueError in one line for a damaged file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3  # errors alone
    if not path.is_file():
        raise ValueError(f"{path} is missing: a folder to be served as onnx holds a graph for each function")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common base
        raise ValueError(f"{path} is no graph that onnxruntime runs ({error}): make it again") from error


class OnnxModule(nn.Module):
    """Takes and gives torch tensors as the model does whose graphs these are; a mask of None means that all is real."""

    def __init__(self, sessions: dict[str, Any]) -> None:
        super().__init__()
        self.sessions = sessions
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # for those who ask a model for its device

    def forward(self, *inputs: Tensor | None) -> Any:
        return self.run("model", *inputs)

    def run(self, name: str, *inputs: Tensor | None) -> Any:
        first = inputs[0]
        assert first is not None
        given = [torch.ones_like(first, dtype=torch.bool) if each is None else each for each in inputs]
        graph = self.sessions[name]
        wanted = [each.name for each in graph.get_inputs()]
        feed = {name: each.numpy(force=True) for name, each in zip(wanted, given, strict=True)}
        outputs = [torch.from_numpy(each) for each in graph.run(None, feed)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


class OnnxTowers(OnnxModule):
    def embed_images(self, images: Tensor) -> Tensor:
        return self.run("embed_images", images)

    def embed_texts(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.run("embed_texts", ids, mask)


class OnnxRecogniser(OnnxModule):
    """`features`: the recogniser's own."""

    def __init__(self, sessions: dict[str, Any], features: nn.Module) -> None:
        super().__init__(sessions)
        self.features = features

    def forward(self, *inputs: Tensor | None) -> Any:
        return self.run("model", *self.features(*inputs))


def load(folder: Path, model: nn.Module) -> OnnxModule:
    """What `export` wrote of `model`, to be called in its place. Errors are those of `check_packages` and `session`."""
    check_packages()
    sessions = {name: session(folder / f"{name}.onnx") for name in graphs(model)}
    if isinstance(model, TwoTowers):
        return OnnxTowers(sessions)
    return OnnxRecogniser(sessions, model.encoder.features) if isinstance(model, Recogniser) else OnnxModule(sessions)


def _traced(model: nn.Module, name: str, graph: Graph) -> bytes:
    """The graph as a file's bytes, which tell nothing of the machine that made them."""
    from torch.export import Dim

    low, high = graph.lengths
    batch, length = TRACED
    example = graph.make(batch, min(max(low, length), high))
    dims = {"batch": Dim("batch", min=1), "length": Dim("length", min=low, max=max(low + 1, high))}
    shapes = [{axis: dims[what] for axis, what in enumerate(axes)} for axes in graph.free.values()]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own
        try:
            program = torch.onnx.export(
                _Forward(model, graph.call).eval(),
                example,
                dynamic_shapes=(tuple(shapes),),
                input_names=list(graph.free),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # of many kinds, one for each way to fail
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise ValueError(f"onnx: {name} of a {type(model).__name__} does not export: {reason}") from error
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # lines of source files, by absolute paths
    return proto.SerializeToString()


def _check(path: Path, graph: Graph, name: str, tolerance: float) -> None:
    import onnx

    onnx.checker.check_model(path, full_check=True)
    runner = OnnxModule({"model": session(path)})
    low, high = graph.lengths
    for batch, share in CHECKED:
        inputs = graph.make(batch, low + round(share * (high - low)))
        shapes = [list(each.shape) for each in inputs]
        with torch.no_grad():
            wanted = graph.call(*inputs)
        try:
            got = runner(*inputs)
        except Exception as error:  # onnxruntime's have no common base
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"onnx: {name} does not run at {shapes}, as the model does: {reason}") from error
        for ours, theirs in zip(_each(wanted), _each(got), strict=True):
            if not torch.allclose(theirs.float(), ours.float(), rtol=tolerance, atol=tolerance):
                apart = (theirs.float() - ours.float()).abs().max().item()
                raise ValueError(
                    f"onnx: {name} differs from the model by {apart:.2g} at {shapes}, "
                    f"more than {tolerance:g} allows: serve another variant"
                )


def _each(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _parts(encoder: Encoder, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    encoded = encoder(*inputs)
    return encoded.tokens, encoded.pooled


def _all_real(decoder: CausalDecoder) -> Callable[[Tensor], Tensor]:
    """With a mask, even of all tokens: SDPA's causal path wants to know at once whether there is more than one."""
    return lambda ids: decoder(ids, torch.ones_like(ids, dtype=torch.bool))


def _ids(vocabulary: int) -> Callable[[int, int], Tensor]:
    def make(batch: int, length: int) -> Tensor:
        generator = torch.Generator().manual_seed(batch + length)
        return torch.randint(vocabulary, (batch, length), generator=generator)

    return make


def _real(batch: int, length: int) -> Tensor:
    """Rows of unequal length, the first one whole."""
    lengths = torch.linspace(length, max(1, length // 3), batch).long()
    return torch.arange(length) < lengths.unsqueeze(1)


def _texts(call: Callable[..., Any], encoder: TextEncoder) -> Graph:
    ids = _ids(encoder.embedding.num_embeddings)
    return Graph(call, lambda b, n: (ids(b, n), _real(b, n)), {"ids": AXES, "mask": AXES}, (1, encoder.config.context))


def _images(call: Callable[..., Any], encoder: ImageEncoder) -> Graph:
    def make(batch: int, _: int) -> tuple[Tensor]:
        generator = torch.Generator().manual_seed(batch)
        return (torch.rand(batch, 3, encoder.size, encoder.size, generator=generator),)

    return Graph(call, make, {"images": ("batch",)})


def _sounds(model: Recogniser) -> Graph:
    """From features and their mask to log-probabilities and how many of them are real."""
    encoder = model.encoder
    mels, stride = encoder.features.mel.n_mels, 1 << len(encoder.front.convolutions)

    def call(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        encoded = encoder.encode(features, mask)
        return model.head(encoded.tokens), encoded.mask.sum(1)

    def make(batch: int, frames: int) -> tuple[Tensor, Tensor]:
        generator, mask = torch.Generator().manual_seed(batch + frames), _real(batch, frames)
        return torch.randn(batch, frames, mels, generator=generator) * mask.unsqueeze(2), mask

    return Graph(call, make, {"features": AXES, "mask": AXES}, (stride, encoder.stack.positions.context * stride))
