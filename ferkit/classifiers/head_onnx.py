"""Heads in other forms: a fitted one as an ONNX graph, and those of earlier projects, joblib files and pickles.

The graph spares predicting the import of scikit-learn, which takes seconds. It counts in double precision, as scikit-
learn does, takes ``embedding`` float32 (n, d) and gives ``probability`` float32 (n, k). Linear steps that follow each
other (scaler, principal components, kernel weights, first layer) become one matrix.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.heads import (
    FittedHead,
    HeadSettings,
    LogisticSettings,
    MLPSettings,
    SVMSettings,
    rename_classes,
)
from ferkit.core.errors import ModelError
from ferkit.embedder.engines import open_session

TOLERANCE = 1e-4
"""Largest difference of a probability from scikit-learn's that a graph may have to be kept."""


class NotConvertibleError(ModelError):
    """A head that has a part without a counterpart here."""


class OnnxHead:
    """Runs a graph that :func:`head_to_onnx` made.

    Raises:
        ModelError: it is no such graph.
    """

    def __init__(self, content: bytes | Path) -> None:
        # A head is small: threads would cost more than they bring.
        self._session = open_session(content, "the head", threads=1, error=ModelError)
        try:
            (self._input,), (output,) = self._session.inputs, self._session.outputs
            self.dim, self.n_classes = int(self._input.shape[1]), int(output.shape[1])  # type: ignore[arg-type]
        except (ValueError, TypeError, IndexError) as error:  # a foreign graph may have any shape
            raise ModelError(f"the head is not a graph that ferkit wrote: {error}") from None

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """float32 (n, k) for embeddings (n, dim)."""
        proba = self._session.run(None, {self._input.name: np.ascontiguousarray(X, np.float32)})[0]
        return np.asarray(proba)


def head_to_onnx(pipeline: Any, X: np.ndarray) -> bytes:
    """The graph of a fitted pipeline, compared with it on the embeddings ``X`` (n, d).

    Raises:
        NotConvertibleError: the pipeline has a part that is not known here, or the graph differs.
    """
    import onnx

    graph = _Graph(X.shape[1])
    try:
        for _, step in pipeline.steps[:-1]:
            _add_transformer(graph, step)
        proba = _classifier(graph, pipeline.steps[-1][1])
    except AttributeError as error:  # another release of scikit-learn keeps its numbers elsewhere
        raise NotConvertibleError(f"the head has an unknown form: {error}") from None
    graph.add("Cast", proba, to=onnx.TensorProto.FLOAT, name="probability")
    content = graph.serialize(len(pipeline.classes_))
    X = np.ascontiguousarray(X, np.float32)
    difference = float(np.abs(OnnxHead(content).predict_proba(X) - pipeline.predict_proba(X)).max())
    if not difference < TOLERANCE:
        raise NotConvertibleError(f"the graph differs from the head by {difference:.1e}")
    return content


class _Graph:
    """Nodes so far, and the linear map that the next of them begins with."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.value = self.add("Cast", "embedding", to=11)  # double
        self.matrix: np.ndarray | None = None  # (d,) scales each column, (d, e) mixes them
        self.bias: np.ndarray = np.zeros(1)

    def add(self, op: str, *inputs: Any, name: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        names = [i if isinstance(i, str) else self._constant(i) for i in inputs]
        output = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [output], **attributes))
        return output

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        array = np.asarray(value)
        if array.dtype != np.int64:
            array = np.asarray(array, np.float64)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), f"c{len(self.constants)}"))
        return f"c{len(self.constants) - 1}"

    def then(self, matrix: np.ndarray, bias: np.ndarray) -> None:
        """Go on with ``x @ matrix + bias``, or ``x * matrix + bias`` where it is one-dimensional."""
        matrix, bias = np.asarray(matrix, np.float64), np.asarray(bias, np.float64)
        before = self.matrix
        if matrix.ndim == 1:
            self.bias = self.bias * matrix + bias
            self.matrix = matrix if before is None else before * matrix
        else:
            self.bias = np.broadcast_to(self.bias, len(matrix)) @ matrix + bias
            if before is not None:
                matrix = before[:, None] * matrix if before.ndim == 1 else before @ matrix
            self.matrix = matrix

    def linear(self) -> str:
        """The value after the linear map so far, which is thereby used up."""
        if self.matrix is not None:
            op = "MatMul" if self.matrix.ndim == 2 else "Mul"
            self.value = self.add("Add", self.add(op, self.value, self.matrix), self.bias)
            self.matrix, self.bias = None, np.zeros(1)
        return self.value

    def rbf(self, gamma: float, points: np.ndarray) -> str:
        """The kernel (n, p) between the value and ``points`` (p, d)."""
        x, points = self.linear(), np.asarray(points, np.float64)
        square = self.add("ReduceSum", self.add("Mul", x, x), np.array([1]), keepdims=1)
        mixed = self.add("MatMul", x, -2 * points.T)
        distance = self.add("Add", self.add("Add", mixed, square), (points**2).sum(axis=1))
        return self.add("Exp", self.add("Mul", self.add("Max", distance, 0.0), -gamma))

    def serialize(self, n_classes: int) -> bytes:
        from onnx import TensorProto, checker, helper

        embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", self.dim])
        output = helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", n_classes])
        graph = helper.make_graph(self.nodes, "head", [embedding], [output], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        checker.check_model(model)
        return bytes(model.SerializeToString())


def _add_transformer(graph: _Graph, step: Any) -> None:
    kind = type(step).__name__
    if kind == "StandardScaler":
        scale = np.ones(graph.dim) if step.scale_ is None else step.scale_
        mean = np.zeros(graph.dim) if step.mean_ is None else step.mean_
        graph.then(1 / scale, -mean / scale)
    elif kind == "PCA":
        # Powers of the variance whiten; without whitening they are one.
        matrix = step.components_.T / (np.sqrt(step.explained_variance_) if step.whiten else 1.0)
        graph.then(matrix, -np.asarray(step.mean_, np.float64) @ matrix)
    elif kind == "Nystroem" and step.kernel == "rbf":
        graph.value = graph.rbf(step.gamma, step.components_)
        graph.then(step.normalization_.T, np.zeros(1))
    else:
        raise NotConvertibleError(f"the step {kind} has no counterpart")


def _classifier(graph: _Graph, head: Any) -> str:
    """The name of the probabilities, (n, k) double."""
    kind = type(head).__name__
    if kind == "CalibratedClassifierCV" and len(head.calibrated_classifiers_) == 1:
        return _calibrated(graph, head.calibrated_classifiers_[0])
    if kind in ("MLPClassifier", "LogisticRegression"):
        scores = _mlp(graph, head) if kind == "MLPClassifier" else _decision(graph, head)
        if len(head.classes_) > 2:
            return graph.add("Softmax", scores, axis=1)
        return _with_complement(graph, graph.add("Sigmoid", scores))
    if kind == "DummyClassifier" and head.strategy == "prior":
        nothing = graph.add("MatMul", graph.linear(), np.zeros((graph.dim, 1)))
        return graph.add("Add", nothing, head.class_prior_)
    raise NotConvertibleError(f"the classifier {kind} has no counterpart")


def _mlp(graph: _Graph, head: Any) -> str:
    """Scores (n, k) of the last layer, (n, 1) for two classes."""
    activations = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": "Identity"}
    for matrix, bias in zip(head.coefs_[:-1], head.intercepts_[:-1], strict=True):
        graph.then(matrix, bias)
        graph.value = graph.add(activations[head.activation], graph.linear())
    graph.then(head.coefs_[-1], head.intercepts_[-1])
    return graph.linear()


def _decision(graph: _Graph, head: Any) -> str:
    """What ``decision_function`` gives: (n, k), or (n, 1) for two classes."""
    kind = type(head).__name__
    if kind == "LogisticRegression":
        graph.then(head.coef_.T, head.intercept_)
        return graph.linear()
    if kind == "SVC" and head.kernel == "rbf" and head.decision_function_shape == "ovr":
        return _svc_decision(graph, head)
    raise NotConvertibleError(f"the classifier {kind} has no counterpart")


def _svc_decision(graph: _Graph, head: Any) -> str:
    k = len(head.classes_)
    kernel = graph.rbf(head._gamma, head.support_vectors_)
    if k == 2:
        return graph.add("Add", graph.add("MatMul", kernel, head.dual_coef_.T), head.intercept_)
    # libsvm trains a machine for each pair of classes i < j, and keeps for a vector of class i its weights
    # against the other classes in the order of these, without i.
    ends = np.cumsum(head.n_support_)
    rows = [slice(end - n, end) for end, n in zip(ends, head.n_support_, strict=True)]
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    weights = np.zeros((len(head.support_vectors_), len(pairs)))
    first, second = np.zeros((len(pairs), k)), np.zeros((len(pairs), k))
    for p, (i, j) in enumerate(pairs):
        weights[rows[i], p] = head.dual_coef_[j - 1, rows[i]]
        weights[rows[j], p] = head.dual_coef_[i, rows[j]]
        first[p, i] = second[p, j] = 1
    decision = graph.add("Add", graph.add("MatMul", kernel, weights), head.intercept_)
    # Votes of the pairs, and below one vote how sure they are: scikit-learn's one-versus-rest score.
    second_wins = graph.add("Cast", graph.add("Less", decision, 0.0), to=11)
    votes = graph.add("Add", graph.add("MatMul", second_wins, second - first), first.sum(axis=0))
    sureness = graph.add("MatMul", decision, first - second)
    bounded = graph.add("Mul", graph.add("Add", graph.add("Abs", sureness), 1.0), 3.0)
    return graph.add("Add", votes, graph.add("Div", sureness, bounded))


def _calibrated(graph: _Graph, part: Any) -> str:
    head, k = part.estimator, len(part.classes)
    has_decision = hasattr(head, "decision_function")
    scores = _decision(graph, head) if has_decision else _classifier(graph, head)
    if part.method == "temperature":
        # Probabilities become scores by their logarithm; a lone score s counts as (-s, s).
        if not has_decision:
            scores = graph.add("Log", graph.add("Add", scores, float(np.finfo(np.float64).eps)))
        elif k == 2:
            scores = graph.add("MatMul", scores, np.array([[-1.0, 1.0]]))
        return graph.add("Softmax", graph.add("Mul", scores, float(part.calibrators[0].beta_)), axis=1)
    if k == 2 and not has_decision:
        scores = graph.add("Slice", scores, np.array([1]), np.array([2]), np.array([1]))
    calibrate = {"sigmoid": _sigmoid_calibrated, "isotonic": _isotonic_calibrated}[part.method]
    proba = calibrate(graph, scores, part.calibrators)
    if k == 2:
        return _with_complement(graph, proba)
    total = graph.add("ReduceSum", proba, np.array([1]), keepdims=1)
    nowhere = graph.add("Equal", total, 0.0)
    divided = graph.add("Div", proba, graph.add("Where", nowhere, 1.0, total))
    return graph.add("Where", nowhere, 1.0 / k, divided)


def _sigmoid_calibrated(graph: _Graph, scores: str, calibrators: Any) -> str:
    a, b = np.array([c.a_ for c in calibrators]), np.array([c.b_ for c in calibrators])
    return graph.add("Sigmoid", graph.add("Sub", graph.add("Mul", scores, -a), b))


def _isotonic_calibrated(graph: _Graph, scores: str, calibrators: Any) -> str:
    """Each column through its step-wise linear function: a sum of clipped ramps."""
    columns = []
    for i, calibrator in enumerate(calibrators):
        x, y = (np.asarray(v, np.float64) for v in (calibrator.X_thresholds_, calibrator.y_thresholds_))
        score = graph.add("Slice", scores, np.array([i]), np.array([i + 1]), np.array([1]))
        width = np.diff(x)
        share = graph.add("Div", graph.add("Sub", score, x[:-1]), np.where(width > 0, width, 1.0))
        ramps = graph.add("Min", graph.add("Max", share, 0.0), 1.0)
        columns.append(graph.add("Add", graph.add("MatMul", ramps, np.diff(y)[:, None]), y[:1]))
    return graph.add("Concat", *columns, axis=1)


def _with_complement(graph: _Graph, second: str) -> str:
    return graph.add("Concat", graph.add("Sub", 1.0, second), second, axis=1)


def import_joblib_head(path: Path, *, trust: bool, labels: tuple[str, ...] | None = None) -> FittedHead:
    """Take in a fitted scikit-learn classifier, alone, in a pipeline, or in a container next to its encoder.

    The result is written with :func:`ferkit.classifiers.kinds.save_embedding_model` like any other head.

    Args:
        path: a ``.pkl`` or ``.joblib`` file.
        trust: whether whoever made the file is trusted; opening it runs code that is in it.
        labels: the class of each of the classifier's numbers, in their order; not needed where the file has
            them.

    Raises:
        ModelError: not trusted, not readable, without a classifier that gives probabilities, or with classes
            that are numbers and no names for them.
    """
    if not trust:
        raise ModelError(f"opening {path} would run code that is in it; add --trust if you know who made it")
    content = _load(path)
    parts = list(_parts(content))
    classifier = next(
        (part for part in parts if hasattr(part, "predict_proba") and hasattr(part, "classes_")), None
    )
    if classifier is None:
        found = ", ".join(sorted({type(part).__name__ for part in parts})) or type(content).__name__
        raise ModelError(f"expected a fitted classifier with probabilities in {path}, found {found}")
    encoder = next((part for part in parts if type(part).__name__ == "LabelEncoder"), None)
    if labels is None and encoder is not None:
        labels = tuple(str(name) for name in encoder.classes_)
    pipeline = _pipeline(classifier, parts)
    _rename_classes(pipeline, labels, path)
    dim = getattr(pipeline.steps[0][1], "n_features_in_", None)
    if dim is None:
        raise ModelError(
            f"{path} does not say how many dimensions it takes; it was made by a scikit-learn before 1.0"
        )
    return FittedHead(pipeline, _settings(pipeline.steps[-1][1]), int(dim), (f"imported from {path.name}",))


def _load(path: Path) -> Any:
    import joblib

    if not path.is_file():
        raise ModelError(f"expected a file at {path}, found none")
    try:
        return joblib.load(path)
    except Exception as error:  # anything may go wrong in code from elsewhere
        raise ModelError(f"{path} cannot be opened: {type(error).__name__}: {error}") from None


def _parts(content: Any) -> Any:
    """The objects in a file, those in containers one by one."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, (list, tuple)):
        for part in content:
            yield from _parts(part)
    else:
        yield content


def _pipeline(classifier: Any, parts: list[Any]) -> Any:
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    if isinstance(classifier, Pipeline):
        return classifier
    before = [p for p in parts if hasattr(p, "transform") and type(p).__name__ in ("StandardScaler", "PCA")]
    for part in before:
        check_is_fitted(part)
    return Pipeline([(type(part).__name__.lower(), part) for part in before] + [("head", classifier)])


def _rename_classes(pipeline: Any, labels: tuple[str, ...] | None, path: Path) -> None:
    head = pipeline.steps[-1][1]
    classes = head.classes_
    if labels is None:
        if np.issubdtype(np.asarray(classes).dtype, np.number):
            raise ModelError(
                f"the classes of {path} are the numbers {', '.join(map(str, classes))}; "
                "say what they are called with --labels, in this order"
            )
        labels = tuple(str(name) for name in classes)
    if len(labels) != len(classes):
        raise ModelError(f"expected {len(classes)} labels for the classes of {path}, found {len(labels)}")
    rename_classes(head, labels)


def _settings(head: Any) -> HeadSettings:
    """The settings that come nearest: for the record, since nothing is fitted with them."""
    kind = type(head).__name__
    if kind == "MLPClassifier":
        hidden = np.atleast_1d(head.hidden_layer_sizes).tolist()
        return MLPSettings(hidden=tuple(hidden), alpha=float(head.alpha), pca=None)
    if kind == "SVC":
        return SVMSettings(C=float(head.C), pca=None)
    if kind == "LogisticRegression":
        return LogisticSettings(C=float(head.C), pca=None)
    raise ModelError(
        f"expected an MLPClassifier, SVC or LogisticRegression, found {kind}; fit it again with 'fer fit'"
    )
