import json
import platform

import onnxruntime

from ptq_export.benchmarks.environment import describe_environment
from ptq_export.processor import instruction_sets


def test_environment_names_the_machine_and_the_versions() -> None:
    environment = describe_environment().to_json()
    assert environment["cpu"]
    assert environment["isa"] == list(instruction_sets()) != []
    assert environment["cores"] >= 1
    assert environment["threads"] >= 1
    assert environment["python"] == platform.python_version()
    assert environment["versions"]["onnxruntime"] == onnxruntime.__version__
    assert len(environment["load_average"]) == 3
    assert json.loads(json.dumps(environment)) == environment
