"""What TRL's options and versions may do to the mix-ins, without a trainer."""

import dataclasses

import pytest

pytest.importorskip("trl")

from payoff.integrations.trl_options import DPO, GRPO, refuse_other_trl, refuse_replaced
from payoff.integrations.trl_trainer import PayoffMixin


def test_a_trl_of_another_shape_is_said_at_once():
    class Older:
        generate = None

    with pytest.raises(RuntimeError, match=r"PayoffMixin is written for TRL 1.16, and Mixed of TRL .* has no '_generate'"):
        refuse_other_trl(object.__new__(type("Mixed", (PayoffMixin, Older), {})), PayoffMixin, ["generate", "_generate"])

    refuse_other_trl(object.__new__(type("Mixed", (PayoffMixin, Older), {})), PayoffMixin, ["generate"])


@pytest.mark.slow
@pytest.mark.parametrize(("config", "table"), [("GRPOConfig", GRPO), ("DPOConfig", DPO)])
def test_every_option_that_is_refused_is_one_of_trls_and_its_default_is_not_refused(config, table, tmp_path):
    import trl

    kind = getattr(trl, config)
    names = {field.name for field in dataclasses.fields(kind)}
    assert set(table) <= names, set(table) - names
    refuse_replaced(kind(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[]), table)
