import pytest

from fedsim.core.errors import FedsimError
from fedsim.experiment.runner import scenario_hash
from fedsim.judgement.policy import Policy, policy_of
from fedsim.scenario import ModelChoice, Scenario


def _project(tmp_path, text):
    path = tmp_path / "pyproject.toml"
    path.write_text(text)
    return path


def test_thresholds_are_read_from_a_project_file(tmp_path):
    path = _project(tmp_path, "[tool.fedsim.policy]\nmax_recovered = 0.05\nmax_epsilon = 8.0\n")

    assert policy_of(path) == Policy(max_recovered=0.05, max_epsilon=8.0)


@pytest.mark.parametrize("text", ["", "[tool.ruff]\n", "[tool.fedsim]\n"])
def test_a_project_that_states_nothing_judges_nothing(tmp_path, text):
    assert policy_of(_project(tmp_path, text)).is_empty


def test_a_missing_project_file_judges_nothing(tmp_path):
    assert policy_of(tmp_path / "pyproject.toml").is_empty


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tool.fedsim.policy]\nmax_recoverd = 0.1\n", "Did you mean 'max_recovered'?"),
        ("[tool.fedsim.policy]\nmax_recovered = 5\n", "max_recovered: Input should be less than or equal to 1"),
        ("[tool.fedsim.policy\n", "is not TOML"),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path, text, told):
    with pytest.raises(FedsimError, match="pyproject.toml") as caught:
        policy_of(_project(tmp_path, text))
    assert told in str(caught.value)


def test_how_a_run_is_judged_is_no_part_of_what_it_is():
    plain = Scenario(title="t", model=ModelChoice(name="mlp", settings={}))
    judged = plain.model_copy(update={"policy": Policy(max_recovered=0.1)})

    assert scenario_hash(judged) == scenario_hash(plain)
