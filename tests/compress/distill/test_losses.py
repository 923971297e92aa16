"""Each loss against the same, written from its paper as loops over numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.distill.features import Seen
from compress.distill.layers import LayerPair
from compress.distill.losses import LOSSES, Pairing
from compress.distill.losses.attention import attention
from compress.distill.losses.crd import Contrast, contrast
from compress.distill.losses.dkd import decoupled
from compress.distill.losses.fsp import flow
from compress.distill.losses.hint import hint
from compress.distill.losses.mgd import Generation
from compress.distill.losses.rkd import relations_apart
from compress.distill.losses.sp import similarities_apart
from compress.errors import InvalidInput
from compress.tasks.built_in.classification import task as classification
from compress.tasks.reading import Reading
from compress.tasks.task import Task

Array = NDArray[np.float64]


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def softmax(values: Array) -> Array:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def test_dkd() -> None:
    """Equation 7, sample by sample."""
    student, teacher, classes = 3 * maps(6, 5), 3 * maps(6, 5, seed=1), torch.tensor([0, 4, 2, 2, 1, 3])
    alpha, beta, temperature, expected = 1.5, 4.0, 2.0, 0.0
    for s, t, right in zip(student.double().numpy(), teacher.double().numpy(), classes.tolist(), strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        others = [k for k in range(5) if k != right]
        target = p[right] * math.log(p[right] / q[right]) + (1 - p[right]) * math.log((1 - p[right]) / (1 - q[right]))
        p_others, q_others = softmax(t[others] / temperature), softmax(s[others] / temperature)
        expected += alpha * target + beta * float((p_others * np.log(p_others / q_others)).sum())
    found = decoupled(student, teacher, classes, alpha, beta, temperature)
    assert float(found) == pytest.approx(temperature**2 * expected / 6, rel=1e-5)


def test_dkd_with_the_teachers_own_weight_is_the_soft_target_loss() -> None:
    """Section 3.2: KD = TCKD + (1 - p_t) NCKD, which for one sample is ``beta = 1 - p_t``."""
    from compress.tasks.soft_targets import soft_target_loss

    student, teacher = maps(1, 5), maps(1, 5, seed=1)
    sure = float((teacher / 4).softmax(1)[0, 2])
    found = decoupled(student, teacher, torch.tensor([2]), 1.0, 1 - sure, 4.0)
    assert float(found) == pytest.approx(float(soft_target_loss(student, teacher, 4.0)), rel=1e-5)


def test_hint() -> None:
    student, teacher = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)
    assert float(hint(student, teacher)) == pytest.approx(
        float(np.mean((student.numpy() - teacher.numpy()) ** 2)), rel=1e-5
    )
    pooled = teacher.reshape(2, 3, 2, 2, 2, 2).mean((3, 5))
    assert float(hint(pooled, teacher)) == pytest.approx(0, abs=1e-12)


def test_attention() -> None:
    """Equation 2, map by map."""
    student, teacher = maps(3, 2, 4, 4), maps(3, 5, 4, 4, seed=1)
    expected = 0.0
    for s, t in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        q = [sum(channel.ravel() ** 2 for channel in feature) for feature in (s, t)]
        a, b = (each / math.sqrt(float((each**2).sum())) for each in q)
        expected += float(((a - b) ** 2).sum())
    assert float(attention(student, teacher)) == pytest.approx(expected / 3, rel=1e-5)


def test_flow() -> None:
    """Equation 1, product by product."""
    first, second = maps(2, 3, 4, 4), maps(2, 2, 4, 4, seed=1)
    found = flow(first, second)
    for n, i, j in np.ndindex(2, 3, 2):
        products = [first[n, i, y, x] * second[n, j, y, x] for y in range(4) for x in range(4)]
        assert float(found[n, i, j]) == pytest.approx(float(sum(products)) / 16, rel=1e-4)
    large = second.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(flow(first, large), found)


def test_similarities() -> None:
    """Equations 1 to 4, similarity by similarity."""
    student, teacher = maps(4, 2, 3, 3), maps(4, 5, 2, 2, seed=1)
    matrices = []
    for feature in (student.double().numpy(), teacher.double().numpy()):
        products = [[float((a * b).sum()) for b in feature] for a in feature]
        matrices.append([[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in products])
    mine, theirs = matrices
    expected = sum((mine[i][j] - theirs[i][j]) ** 2 for i in range(4) for j in range(4)) / 16
    assert float(similarities_apart(student, teacher)) == pytest.approx(expected, rel=1e-4)


def huber(a: float, b: float) -> float:
    apart = abs(a - b)
    return apart * apart / 2 if apart <= 1 else apart - 0.5


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_relations() -> None:
    """Sections 3.2.1 and 3.2.2, pair by pair and triple by triple."""
    student, teacher = maps(5, 3), maps(5, 4, 2, 2, seed=1)
    mine, theirs = student.double().numpy(), teacher.double().numpy().mean((2, 3))
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    distances = [[float(np.linalg.norm(x[i] - x[j])) for i, j in pairs] for x in (mine, theirs)]
    ours, others = ([each / np.mean(values) for each in values] for values in distances)
    of_distances = np.mean([huber(float(a), float(b)) for a, b in zip(ours, others, strict=True)])
    triples = [(i, j, k) for i, j in pairs for k in range(5) if k not in (i, j)]
    angles = [[cosine(x[i] - x[j], x[k] - x[j]) for i, j, k in triples] for x in (mine, theirs)]
    of_angles = np.mean([huber(a, b) for a, b in zip(*angles, strict=True)])
    found = relations_apart(student, teacher, distance=25, angle=50)
    assert float(found) == pytest.approx(25 * of_distances + 50 * of_angles, rel=1e-4)


def test_contrast() -> None:
    """Section 3.1, anchor by anchor."""
    student, teacher = (nn.functional.normalize(maps(4, 3, seed=seed), dim=1) for seed in (0, 1))
    negative = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    mean, expected = 1.7, 0.0
    for i in range(4):
        rivals = [j for j in range(4) if negative[i, j]]

        def told(j: int, i: int = i, count: int = len(rivals)) -> float:
            power = math.exp(float(student[i] @ teacher[j]) / 0.5)
            return power / (power + count * mean)

        expected -= math.log(told(i)) + sum(math.log(1 - told(j)) for j in rivals)
    found = contrast(student, teacher, teacher, negative, 0.5, torch.tensor(mean))
    assert float(found) == pytest.approx(expected / 4, rel=1e-4)


@pytest.mark.parametrize(
    "loss",
    [hint, attention, similarities_apart, lambda a, b: relations_apart(a, b, distance=25, angle=50)],
    ids=["hint", "attention", "sp", "rkd"],
)
def test_equal_features_have_no_loss_and_a_finite_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    feature = maps(4, 3, 2, 2).requires_grad_()
    found = loss(feature, feature.detach())
    found.backward()
    assert float(found.detach()) == pytest.approx(0, abs=1e-10)
    assert feature.grad is not None and float(feature.grad.abs().max()) < 1e-4


@pytest.mark.parametrize(
    "loss",
    [
        hint,
        attention,
        similarities_apart,
        lambda a, b: relations_apart(a, b, distance=25, angle=50),
        lambda a, b: (flow(a, a) - flow(b, b)).square().mean(),
        lambda a, b: decoupled(a.mean((2, 3)), b.mean((2, 3)), torch.tensor([0, 2, 1, 1]), 1.0, 8.0, 4.0),
    ],
    ids=["hint", "attention", "sp", "rkd", "fsp", "dkd"],
)
def test_gradients_against_differences(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = maps(4, 3, 2, 2).requires_grad_(), maps(4, 3, 2, 2, seed=1)
    loss(student, teacher).backward()
    direction, step = maps(4, 3, 2, 2, seed=2), 1e-2
    with torch.no_grad():
        ahead, behind = (float(loss(student + sign * step * direction, teacher)) for sign in (1, -1))
    assert student.grad is not None
    assert float((student.grad * direction).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=0.02)


def test_scaled_and_turned_features_are_alike_by_relations() -> None:
    vectors = maps(6, 3)
    turn = torch.linalg.qr(maps(3, 3, seed=1)).Q
    found = relations_apart(vectors, 3 * vectors @ turn + 2, distance=25, angle=50)
    assert float(found) == pytest.approx(0, abs=1e-8)


def test_tokens_are_read_as_maps_are() -> None:
    one, other = maps(3, 4, 2, 2), maps(3, 4, 2, 2, seed=1)
    tokens = [each.flatten(2).transpose(1, 2) for each in (one, other)]
    for loss in (
        attention,
        hint,
        lambda a, b: relations_apart(a, b, distance=1, angle=1),
        lambda a, b: flow(a, b).sum(),
    ):
        torch.testing.assert_close(loss(*tokens), loss(one, other))


def test_a_generator_sees_a_share_of_the_pixels() -> None:
    generation = Generation(LayerPair("a", "a", (4, 3, 16, 16), (4, 3, 16, 16)), 0.75)
    seen: list[Tensor] = []
    generation.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    generation(torch.ones(4, 3, 16, 16))
    assert torch.equal(seen[0][:, 0], seen[0][:, 2]) and 0.2 < float(seen[0].mean()) < 0.3
    assert not torch.equal(seen[0][0], seen[0][1])


def test_a_contrast_remembers_the_latest_samples_and_leaves_out_their_class() -> None:
    torch.manual_seed(0)
    term = Contrast(LayerPair("a", "a", (4, 3), (4, 5)), classification(Reading()), 8, 0.07, memory=6)
    for classes in (torch.tensor([0, 1, 2, 0]), torch.tensor([3, 1, 2, 2])):
        feature = maps(4, 3), maps(4, 5, seed=1)
        loss = term(Seen(None, {"a": feature[0]}), Seen(None, {"a": feature[1]}), (feature[0], classes))
    assert int(term.stored) == 8 and sorted(term.classes.tolist()) == [0, 1, 2, 2, 2, 3]
    loss.backward()
    assert term.of_teacher.weight.grad is not None and float(term.of_teacher.weight.grad.abs().sum()) > 0
    alone = Contrast(LayerPair("a", "a", (4, 3), (4, 5)), classification(Reading()), 8, 0.07, memory=0)
    same = torch.zeros(4, dtype=torch.long)
    seen = Seen(None, {"a": feature[0]}), Seen(None, {"a": feature[1]})
    without = alone(*seen, (feature[0], same))
    assert torch.isfinite(without), "a batch of one class has no negatives"


def pairing(task: Task | None = None, shape: tuple[int, ...] = (2, 8), outputs: int = 3) -> Pairing:
    shapes = {"a": shape}
    return Pairing(
        task or classification(Reading()), 4.0, Seen(torch.zeros(2, 3)), Seen(torch.zeros(2, outputs)), shapes, shapes
    )


@pytest.mark.parametrize(
    ("loss", "of", "message"),
    [
        ("dkd", pairing(Task(name="regression")), "loss dkd: .*class of each sample, and the task regression has none"),
        ("dkd", pairing(outputs=4), r"loss dkd: .*got \(3,\) .* and \(4,\) from the teacher"),
        ("attention", pairing(), r"loss attention: .*a returns \(N, 8\)"),
        ("fsp", pairing(shape=(2, 3, 4, 4)), "loss fsp: it needs two pairs of layers or more, got 1"),
        ("mgd", pairing(shape=(2, 9, 4)), "loss mgd: .* and a returns tokens"),
        ("hint:b", pairing(shape=(2, 3, 4, 4)), r"loss hint: the student has no layer b that .*; it has a"),
    ],
)
def test_what_a_loss_cannot_serve_it_says(loss: str, of: Pairing, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        LOSSES.read(loss).term(of)
