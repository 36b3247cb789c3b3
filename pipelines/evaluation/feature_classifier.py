"""What a node's own features can tell: the reference row that every network of a graph should beat.

Multinomial logistic regression on the row-normalised features of the training nodes, without a single link. Its penalty
on the squared weights is the one of a few with the best accuracy on the validation nodes, the strongest of equals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cases.graph import Graph
from pipelines.evaluation.node_scores import node_rows

ENTRY = "feature_classifier"
_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


def feature_classifier_rows(graph: Graph) -> list[dict[str, Any]]:
    """Fit, predict and score, as an entry of the comparison would be; seed None."""
    x = features(graph)
    training, validation = graph.nodes_of("train"), graph.nodes_of("validation")
    num_classes = len(graph.info.labels)
    fitted = [fit(x[training], graph.classes[training], num_classes, penalty) for penalty in _PENALTIES]
    predicted = [predict(x, weights) for weights in fitted]
    accuracies = [(classes[validation] == graph.classes[validation]).mean() for classes in predicted]
    return node_rows(graph, predicted[int(np.argmax(accuracies))], seed=None)


def features(graph: Graph) -> NDArray[np.float64]:
    """(N, C + 1): features of every node, divided by the sum of their sizes, and a 1."""
    x = np.zeros((graph.num_nodes, graph.info.num_features + 1))
    x[graph.feature_rows, graph.feature_columns] = graph.feature_values
    x /= np.maximum(np.abs(x).sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    x[:, -1] = 1
    return x


def fit(x: NDArray[np.float64], classes: NDArray[np.int64], num_classes: int, penalty: float) -> NDArray[np.float64]:
    """Weights (C + 1, classes) with the smallest mean cross entropy plus half the penalty times the squared weights.

    Args:
        x: (n, C + 1) features, the last of them 1; its weights are not penalised.
        classes: (n,).
        num_classes: how many there are.
        penalty: above 0.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    one_hot = np.eye(num_classes)[classes]

    def loss_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = flat.reshape(x.shape[1], num_classes)
        penalised = weights.copy()
        penalised[-1] = 0
        log_probabilities = log_softmax(x @ weights, axis=1)
        loss = -(one_hot * log_probabilities).sum() / len(x) + penalty / 2 * (penalised**2).sum()
        gradient = x.T @ (np.exp(log_probabilities) - one_hot) / len(x) + penalty * penalised
        return float(loss), gradient.ravel()

    start = np.zeros(x.shape[1] * num_classes)
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    weights: NDArray[np.float64] = found.x.reshape(x.shape[1], num_classes)
    return weights


def predict(x: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Likeliest class of each row."""
    return (x @ weights).argmax(axis=1)
