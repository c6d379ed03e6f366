from pathlib import Path

import pytest
import yaml

from migrate import bundled, inventory
from migrate import settings as settings_module
from migrate.errors import UsageError

EXAMPLE = bundled.root() / "inventory" / "example"
LAB = bundled.root() / "inventory" / "lab"


def variables(file: Path) -> dict[str, object]:
    loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_the_example_documents_every_setting_and_its_default() -> None:
    documented = variables(EXAMPLE / "group_vars" / "gpu_hosts" / "main.yml")
    assert set(documented) == set(settings_module.known_settings())
    loaded = settings_module.load(documented)
    for section, values in loaded:
        for name, info in type(values).model_fields.items():
            if not info.is_required():
                assert getattr(values, name) == info.default, f"{section}_{name}"


def test_the_labs_inventory_is_valid() -> None:
    settings_module.load(variables(LAB / "group_vars" / "all" / "main.yml"))


def test_an_unknown_host_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="gpu1.*did you mean gpu01"):
        inventory.Inventory(EXAMPLE).variables("gpu1")


def test_a_known_host_has_its_variables() -> None:
    found = inventory.Inventory(EXAMPLE).variables("gpu01")
    assert found["ansible_user"] == "ops"
    assert found["triton_probe_model"] == "phi2"


def test_a_variable_is_found_with_file_and_line() -> None:
    where = inventory.Inventory(EXAMPLE).where("triton_probe_model", "gpu01")
    file, line = where.rsplit(":", 1)
    assert Path(file).read_text(encoding="utf-8").splitlines()[int(line) - 1].startswith("triton_probe_model")


def test_a_variable_in_no_file_points_at_the_inventory() -> None:
    assert inventory.Inventory(EXAMPLE).where("vllm_no_such", "gpu01") == str(EXAMPLE)


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("gpu_hosts: {hosts: [", encoding="utf-8")
    with pytest.raises(UsageError, match=str(tmp_path)):
        inventory.Inventory(tmp_path).variables("gpu01")


def test_no_inventory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no inventory"):
        inventory.find(tmp_path / "nowhere")


def test_templates_are_filled_in(tmp_path: Path) -> None:
    hosts = {"all": {"hosts": {"h": {"ansible_user": "ops", "vllm_image": "{{ inventory_dir }}/{{ ansible_user }}"}}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")
    assert inventory.Inventory(tmp_path).variables("h")["vllm_image"] == f"{tmp_path}/ops"


def test_a_template_that_cannot_be_filled_in_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text('{all: {hosts: {h: {vllm_image: "{{ nowhere }}"}}}}', encoding="utf-8")
    with pytest.raises(UsageError):
        inventory.Inventory(tmp_path).variables("h")
