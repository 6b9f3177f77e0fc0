"""The projection head: its layers, its initial weights and its unit outputs."""

import pytest
import torch
import torch.nn.functional as F

from umbel.ssl.head import Head, HeadConfig


def make_head(dim: int = 12, hidden: int = 20, width: int = 8) -> Head:
    torch.manual_seed(0)
    return Head(dim, HeadConfig(hidden=hidden, width=width)).double()


def test_is_three_linear_layers_with_gelu_between_and_a_unit_vector() -> None:
    head = make_head()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)  # biases of 0 would hide that they are added
    (w1, b1, w2, b2, w3, b3) = (p.detach() for p in head.parameters())
    assert (w1.shape, w2.shape, w3.shape) == ((20, 12), (20, 20), (8, 20))
    x = torch.randn(5, 12, dtype=torch.float64)
    out = F.gelu(F.gelu(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    torch.testing.assert_close(head(x), out / out.square().sum(1, keepdim=True).sqrt())


def test_defaults_are_the_papers() -> None:
    assert HeadConfig() == HeadConfig(hidden=2048, width=256)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    head = Head(64, HeadConfig(hidden=512, width=128))
    for name, parameter in head.state_dict().items():
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter))
        else:
            # 32768 draws at least: the deviation of the deviation is 0.4 %.
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.03)
            assert abs(float(parameter.mean())) < 0.001


def test_vectors_are_of_length_one_in_float32_under_autocast() -> None:
    head = make_head().float()
    with torch.autocast("cpu", torch.bfloat16):
        out = head(torch.randn(64, 12))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=1), torch.ones(64), rtol=1e-6, atol=0)


def test_no_rows_are_no_rows() -> None:
    assert make_head()(torch.empty(0, 12, dtype=torch.float64)).shape == (0, 8)


@pytest.mark.parametrize(("hidden", "width"), [(0, 8), (4, 1)])
def test_impossible_widths_are_refused(hidden: int, width: int) -> None:
    with pytest.raises(ValueError, match="head"):
        HeadConfig(hidden=hidden, width=width)
