from typing import Any

import pytest

from migrate import settings as settings_module
from migrate.errors import SettingsError

from .fakes import VARIABLES, settings


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vllm_imag": "x"}, "vllm_imag: unknown setting; did you mean vllm_image?"),
        ({"nginx_config_fil": "/x"}, "did you mean nginx_config_file"),
        ({"vllm_port": 70000}, "vllm_port"),
        ({"vllm_port": 8000}, "triton_http_port and vllm_port: both use port 8000"),
        ({"triton_probe_model": "gpt"}, "triton_probe_model: 'gpt' is not one of triton_models"),
        ({"switch_steps": [5, 25]}, "switch_steps: must rise and end at 100"),
        ({"switch_steps": [100, 5, 100]}, "switch_steps"),
        ({"vllm_image": "$(reboot)"}, "vllm_image: not an image reference"),
        ({"triton_model_repository": "models"}, "triton_model_repository"),
        ({"triton_models": {}}, "triton_models"),
        ({"switch_step_s": 90}, "deadman_timeout_s: 180 is less than a step may last"),
        ({"vllm_environment": {"HF_TOKEN": "hf_x"}}, "HF_TOKEN looks like a secret"),
        ({"vllm_args": {"api-key": "x"}}, "api-key looks like a secret"),
        ({"triton_models": {"phi2": {"style": "onnx"}}}, "triton_models.phi2.style"),
        ({"vllm_weights_path": "/srv/triton/models"}, "vllm_weights_path: /srv/triton/models is replaced and removed"),
        ({"vllm_weights_path": "/srv"}, "triton_model_repository is /srv/triton/models"),
        ({"vllm_weights_path": "/srv/triton/models/phi2/1/weights/new"}, "vllm_weights_path"),
        ({"provision_cuda_repository_url": "https://u:p@mirror/cuda"}, "provision_cuda_repository_url"),
    ],
)
def test_a_bad_setting_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings(**changed)
    assert message in str(error.value)


def test_a_missing_setting_is_named() -> None:
    variables = {key: value for key, value in VARIABLES.items() if key != "triton_model_repository"}
    with pytest.raises(SettingsError, match="triton_model_repository"):
        settings_module.load(variables)


def test_variables_of_other_roles_are_left_alone() -> None:
    settings(ansible_host="10.0.0.1", nginx_vhosts=[], my_vllm="x", docker_users=["ops"])


def test_flat_settings_read_back_as_the_same() -> None:
    first = settings(switch_ports={80: 18080, 443: 18443})
    assert settings_module.load(first.flat()) == first


def test_an_option_of_vllm_has_one_spelling() -> None:
    made = settings_module.load(VARIABLES | {"vllm_args": {"max_model_len": 512, "hf-overrides.rope_theta": 1}})
    assert made.vllm.args == {"max-model-len": 512, "hf-overrides.rope_theta": 1}


def test_an_option_that_is_there_in_both_spellings_is_refused() -> None:
    with pytest.raises(SettingsError, match="vllm_args: .*the same option"):
        settings_module.load(VARIABLES | {"vllm_args": {"max_model_len": 512, "max-model-len": 1024}})
